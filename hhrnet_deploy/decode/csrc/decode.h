// All steps for one image on the CPU, in the order of SEMANTICS: aggregate, peaks, group, adjust, refine.
#pragma once

#include "aggregate.h"
#include "peaks.h"
#include "refine.h"

HHRNET_BEGIN

// Hands out aligned pieces of one block; started at nullptr it only measures.
class Carver {
  public:
    explicit Carver(void* memory) : begin_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(size_t count) {
        char* piece = begin_ == nullptr ? nullptr : begin_ + used_;
        used_ += (count * sizeof(T) + 63) / 64 * 64;
        return reinterpret_cast<T*>(piece);
    }
    size_t used() const { return used_; }

  private:
    char* begin_;
    size_t used_ = 0;
};

// Everything one image needs beside its heads. Steps that never run together share `step`.
struct Workspace {
    float* heat[kMaxScales];
    float* cells[kMaxScales];
    float* tags;
    float* bounds;  // (K, tiles)
    Candidates candidates;
    PeopleBuffers people;
    void* group_memory;
    void* step;  // rows of aggregate; or PeakScratch and live tiles; or GroupScratch; or RefineScratch and TileTags
    size_t bytes;
};

constexpr size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

inline size_t step_bytes(const ImageRequest& r, int tiles) {
    size_t most = padded(sizeof(PeakScratch)) + sizeof(int) * tiles;
    most = greatest(most, sizeof(GroupScratch));
    most = greatest(most, padded(sizeof(RefineScratch)) + TileTags::bytes(tiles, r.dims));
    for (int s = 0; s < r.scales; ++s) {
        const ScaleData& scale = r.scale[s];
        most = greatest(most, sizeof(float) * AggregateRows::floats(scale.coarse_width, scale.fine_width));
    }
    return most;
}

inline Workspace carve(const ImageRequest& r, void* memory) {
    Carver carver(memory);
    Workspace w;
    const size_t joints = r.joints, people = joints * r.settings.max_people;
    for (int s = 0; s < r.scales; ++s) {
        const ScaleData& scale = r.scale[s];
        w.heat[s] = carver.take<float>(joints * scale.fine_width * scale.fine_height);
        w.cells[s] =
            carver.take<float>(joints * ceil_div(scale.fine_width, kCell) * ceil_div(scale.fine_height, kCell));
    }
    const ScaleData& tagged = r.scale[r.tag_scale];
    const int tiles = ceil_div(r.width, kTile) * ceil_div(r.height, kTile);
    w.tags = carver.take<float>(joints * r.dims * tagged.coarse_width * tagged.coarse_height);
    w.bounds = carver.take<float>(joints * tiles);
    w.candidates = {carver.take<float>(people), carver.take<int>(people), carver.take<float>(people * r.dims)};
    w.people = {carver.take<float>(people * joints * 3), carver.take<float>(people),
                carver.take<float>(people * joints * r.dims), carver.take<float>(people * r.dims),
                carver.take<int>(1)};
    w.group_memory = carver.take<char>(GroupMemory::bytes(r.joints, r.settings.max_people, r.dims));
    w.step = carver.take<char>(step_bytes(r, tiles));
    w.bytes = carver.used();
    return w;
}

inline ScaleHeads heads_of(const ScaleData& s, int joints) {
    return {s.coarse,       s.fine,          s.coarse_flipped, s.fine_flipped, s.coarse_width,
            s.coarse_height, s.fine_width, s.fine_height,    joints};
}

inline Projection projection_of(const ImageRequest& r, const Workspace& w) {
    Projection p;
    p.scales = r.scales;
    p.width = r.width;
    p.height = r.height;
    for (int s = 0; s < r.scales; ++s)
        p.scale[s] = {w.heat[s], w.cells[s], r.scale[s].fine_width, r.scale[s].fine_height};
    return p;
}

inline TagMaps tag_maps_of(const ImageRequest& r, const Workspace& w) {
    const ScaleData& s = r.scale[r.tag_scale];
    return {w.tags, r.dims, s.coarse_width, s.coarse_height, s.fine_width, s.fine_height};
}

// Returns whether a head holds a value that no decoder accepts.
inline int aggregate_scale(const ImageRequest& r, const Workspace& w, int s) {
    const ScaleHeads heads = heads_of(r.scale[s], r.joints);
    const AggregateRows rows = AggregateRows::at(static_cast<float*>(w.step), heads.fine_width);
    const size_t area = size_t(heads.fine_width) * heads.fine_height;
    const size_t cells = size_t(ceil_div(heads.fine_width, kCell)) * ceil_div(heads.fine_height, kCell);
    const size_t tags = size_t(r.dims) * heads.coarse_width * heads.coarse_height;
    int bad = 0;
    for (int joint = 0; joint < r.joints; ++joint) {
        float* tags_out = s == r.tag_scale ? w.tags + joint * tags : nullptr;
        const AggregateOutput out = {w.heat[s] + joint * area, w.cells[s] + joint * cells, tags_out};
        bad |= aggregate_rows(heads, joint, r.flip_index[joint], rows, out);
    }
    return bad;
}

template <class Group>
void find_all_peaks(const Group& group, const ImageRequest& r, const Workspace& w, const Projection& p,
                    const TagMaps& tags) {
    auto* scratch = static_cast<PeakScratch*>(w.step);
    int* live = reinterpret_cast<int*>(static_cast<char*>(w.step) + padded(sizeof(PeakScratch)));
    for (int joint = 0; joint < r.joints; ++joint) {
        const PeakSearch search = {p, joint, r.settings.detection_threshold, r.settings.nms_kernel / 2,
                                   r.settings.max_people};
        find_peaks(group, search, w.bounds + size_t(joint) * p.tiles(), live, *scratch);
        write_candidates(group, search, tags, *scratch, w.candidates);
        group.barrier();
    }
}

// Groups, adjusts and scores; returns the number of people.
template <class Group>
int group_image(const Group& group, const ImageRequest& r, const Workspace& w, const Projection& p) {
    auto* scratch = static_cast<GroupScratch*>(w.step);
    const Grouping grouping = {r.settings, r.joints,     r.dims,   r.width,
                               r.height,   r.order,      w.candidates, w.people,
                               GroupMemory::at(w.group_memory, r.joints, r.settings.max_people, r.dims)};
    group_people(group, grouping, *scratch);
    const int people = scratch->people;
    score_people(group, grouping, people);
    mean_found_tags(group, grouping, people);
    group.barrier();
    if (r.settings.adjust) adjust_joints(group, p, grouping, people);
    group.barrier();
    return people;
}

template <class Group>
void refine_all(const Group& group, const ImageRequest& r, const Workspace& w, const Projection& p,
                const TagMaps& tags, int people) {
    auto* scratch = static_cast<RefineScratch*>(w.step);
    const TileTags tiles =
        TileTags::at(static_cast<char*>(w.step) + padded(sizeof(RefineScratch)), p.tiles(), r.dims);
    for (int joint = 0; joint < r.joints; ++joint) {
        const Refinement refinement = {p, tags, joint, r.joints, w.bounds + size_t(joint) * p.tiles(), tiles};
        refine_joint(group, refinement, people, w.people.person_tags, w.people.keypoints, *scratch);
        group.barrier();
    }
}

// The steps after aggregate, by a group; every thread of it gets the number of people.
template <class Group>
int decode_merged(const Group& group, const ImageRequest& r, const Workspace& w) {
    const Projection p = projection_of(r, w);
    const TagMaps tags = tag_maps_of(r, w);
    find_all_peaks(group, r, w, p, tags);
    const int people = group_image(group, r, w, p);
    if (r.settings.refine && people > 0) refine_all(group, r, w, p, tags, people);
    return people;
}

inline ImageResult decode_image(const ImageRequest& r, void* memory) {
    const Workspace w = carve(r, memory);
    int bad = 0;
    for (int s = 0; s < r.scales; ++s) bad |= aggregate_scale(r, w, s);
    const int people = bad ? 0 : decode_merged(SingleThread{}, r, w);
    return {w.people.keypoints, w.people.scores, w.people.joint_tags, people, bad};
}

inline size_t workspace_bytes(const ImageRequest& r) { return carve(r, nullptr).bytes; }

HHRNET_END
