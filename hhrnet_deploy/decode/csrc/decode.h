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
    float* tags;  // only where the heads are float16
    TileTables tables;
    float* bounds;  // (K, tiles)
    Candidates candidates;
    PeopleBuffers people;
    void* group_memory;
    void* step;  // rows of aggregate; or PeakScratch and live tiles; or GroupScratch; or RefineScratch,
                 // TilePatches, TagRanges and TileReach or TagScratch
    size_t bytes;
};

constexpr size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

inline size_t step_bytes(const ImageRequest& r, int tiles) {
    size_t most = padded(sizeof(PeakScratch)) + sizeof(int) * tiles;
    most = greatest(most, sizeof(GroupScratch));
    most = greatest(most, padded(sizeof(RefineScratch)) + padded(sizeof(TilePatches)) +
                              sizeof(float) * TagRanges::floats(tiles, r.dims) +
                              greatest(TileReach::bytes(tiles), sizeof(TagScratch)));
    for (int s = 0; s < r.scales; ++s) {
        const ScaleData& scale = r.scale[s];
        most = greatest(most, sizeof(float) * AggregateRows::floats(scale.coarse_width, scale.fine_width));
    }
    return most;
}

// float32 tags are read where they are.
inline bool copies_tags(const ImageRequest& r) {
    const ScaleData& s = r.scale[r.tag_scale];
    return s.coarse.half || (s.coarse_flipped.data != nullptr && s.coarse_flipped.half);
}

inline SpanTable carve_spans(Carver& carver, int tiles_wide, int tiles_high) {
    return {carver.take<Span>(tiles_high), carver.take<Span>(tiles_wide)};
}

inline TileTables carve_tables(Carver& carver, const ImageRequest& r, int tiles_wide, int tiles_high) {
    TileTables tables;
    int widest = r.scale[r.tag_scale].coarse_width;
    for (int s = 0; s < r.scales; ++s) {
        tables.cells[s] = carve_spans(carver, tiles_wide, tiles_high);
        widest = greatest(widest, ceil_div(r.scale[s].fine_width, kCell));
    }
    for (int dim = 0; dim < r.dims; ++dim) tables.tags[dim] = carve_spans(carver, tiles_wide, tiles_high);
    tables.low = carver.take<float>(widest);
    tables.high = carver.take<float>(widest);
    return tables;
}

inline Workspace carve(const ImageRequest& r, void* memory) {
    Carver carver(memory);
    Workspace w;
    const size_t joints = r.joints, people = joints * r.settings.max_people;
    for (int s = 0; s < r.scales; ++s) {
        const ScaleData& scale = r.scale[s];
        w.heat[s] = carver.take<float>(joints * scale.fine_width * scale.fine_height);
        w.cells[s] = carver.take<float>(joints * ceil_div(scale.fine_width, kCell) *
                                        ceil_div(scale.fine_height, kCell));
    }
    const ScaleData& tagged = r.scale[r.tag_scale];
    const int tiles_wide = ceil_div(r.width, kTile), tiles_high = ceil_div(r.height, kTile);
    const int tiles = tiles_wide * tiles_high;
    w.tags = copies_tags(r) ? carver.take<float>(joints * r.dims * tagged.coarse_width * tagged.coarse_height)
                            : nullptr;
    w.tables = carve_tables(carver, r, tiles_wide, tiles_high);
    w.bounds = carver.take<float>(joints * tiles);
    w.candidates = {carver.take<float>(people), carver.take<int>(people),
                    carver.take<float>(people * r.dims)};
    w.people = {carver.take<float>(people * joints * 3), carver.take<float>(people),
                carver.take<float>(people * joints * r.dims), carver.take<float>(people * r.dims),
                carver.take<int>(1)};
    w.group_memory = carver.take<char>(GroupMemory::bytes(r.joints, r.settings.max_people, r.dims));
    w.step = carver.take<char>(step_bytes(r, tiles));
    w.bytes = carver.used();
    return w;
}

inline ScaleHeads heads_of(const ScaleData& s, int joints) {
    return {s.coarse,        s.fine,       s.coarse_flipped, s.fine_flipped, s.coarse_width,
            s.coarse_height, s.fine_width, s.fine_height,    joints};
}

inline Projection projection_of(const ImageRequest& r, const Workspace& w) {
    Projection p;
    p.scales = r.scales;
    p.width = r.width;
    p.height = r.height;
    for (int s = 0; s < r.scales; ++s)
        p.scale[s] = {w.heat[s],
                      w.cells[s],
                      r.scale[s].fine_width,
                      r.scale[s].fine_height,
                      Axis(r.scale[s].fine_height, r.height),
                      Axis(r.scale[s].fine_width, r.width)};
    return p;
}

// The tags of a head read in place: its channels K to 2K-1.
inline TagSide raw_side(const HeadData& coarse, int joints, const int* channel) {
    return {static_cast<const float*>(coarse.data) + joints * coarse.channel_stride, coarse.channel_stride,
            coarse.row_stride, channel};
}

inline TagMaps tag_maps_of(const ImageRequest& r, const Workspace& w) {
    const ScaleData& s = r.scale[r.tag_scale];
    TagMaps maps;
    maps.dims = r.dims;
    maps.coarse_width = s.coarse_width;
    maps.coarse_height = s.coarse_height;
    maps.fine_width = s.fine_width;
    maps.fine_height = s.fine_height;
    maps.fit(r.width, r.height);
    for (int dim = 0; dim < r.dims; ++dim) {
        if (w.tags != nullptr)
            maps.side[dim] = copied_side(w.tags, dim, r.dims, s.coarse_width, s.coarse_height);
        else
            maps.side[dim] = dim == 0 ? raw_side(s.coarse, r.joints, nullptr)
                                      : raw_side(s.coarse_flipped, r.joints, r.flip_index);
    }
    return maps;
}

// Where aggregate writes one joint of one scale.
inline AggregateOutput output_of(const ImageRequest& r, const Workspace& w, int s, int joint) {
    const ScaleData& scale = r.scale[s];
    const size_t area = size_t(scale.fine_width) * scale.fine_height;
    const size_t cells = size_t(ceil_div(scale.fine_width, kCell)) * ceil_div(scale.fine_height, kCell);
    const size_t tags = size_t(r.dims) * scale.coarse_width * scale.coarse_height;
    const bool copies = s == r.tag_scale && w.tags != nullptr;
    return {w.heat[s] + joint * area, w.cells[s] + joint * cells, copies ? w.tags + joint * tags : nullptr};
}

// Merges one joint at every scale; returns whether a head holds a value that no decoder accepts.
inline int aggregate_joint(const ImageRequest& r, const Workspace& w, int joint) {
    int bad = 0;
    for (int s = 0; s < r.scales; ++s) {
        const ScaleHeads heads = heads_of(r.scale[s], r.joints);
        const AggregateRows rows = AggregateRows::at(static_cast<float*>(w.step), heads.fine_width);
        bad |= aggregate_rows(heads, joint, r.flip_index[joint], rows, output_of(r, w, s, joint));
    }
    return bad;
}

template <class Group>
void find_joint_peaks(const Group& group, const ImageRequest& r, const Workspace& w, const Projection& p,
                      const TagMaps& tags, int joint) {
    auto* scratch = static_cast<PeakScratch*>(w.step);
    int* live = reinterpret_cast<int*>(static_cast<char*>(w.step) + padded(sizeof(PeakScratch)));
    const PeakSearch search = {p,
                               &w.tables,
                               joint,
                               r.settings.detection_threshold,
                               r.settings.nms_kernel / 2,
                               r.settings.max_people};
    find_peaks(group, search, w.bounds + size_t(joint) * p.tiles(), live, *scratch);
    write_candidates(group, search, tags, *scratch, w.candidates);
    group.barrier();
}

// Groups, adjusts and scores; returns the number of people.
template <class Group>
int group_image(const Group& group, const ImageRequest& r, const Workspace& w, const Projection& p) {
    auto* scratch = static_cast<GroupScratch*>(w.step);
    const Grouping grouping = {
        r.settings,   r.joints, r.dims,
        r.width,      r.height, r.order,
        w.candidates, w.people, GroupMemory::at(w.group_memory, r.joints, r.settings.max_people, r.dims)};
    group_people(group, grouping, *scratch);
    const int people = scratch->people;
    score_people(group, grouping, people);
    mean_found_tags(group, grouping, people);
    if (r.settings.adjust) adjust_joints(group, p, grouping, people);
    group.barrier();
    return people;
}

template <class Group>
void refine_all(const Group& group, const ImageRequest& r, const Workspace& w, const Projection& p,
                const TagMaps& tags, int people) {
    char* step = static_cast<char*>(w.step);
    auto* scratch = reinterpret_cast<RefineScratch*>(step);
    auto* patches = reinterpret_cast<TilePatches*>(step += padded(sizeof(RefineScratch)));
    auto* memory = reinterpret_cast<float*>(step + padded(sizeof(TilePatches)));
    void* rest = memory + TagRanges::floats(p.tiles(), r.dims);
    const TileReach reach = TileReach::at(rest, p.tiles());
    auto* columns = static_cast<TagScratch*>(rest);  // a group of one needs that, any other this
    for (int joint = 0; joint < r.joints; ++joint) {
        const Refinement refinement = {p,
                                       tags,
                                       patches,
                                       reach,
                                       joint,
                                       w.bounds + size_t(joint) * p.tiles(),
                                       {tags, &w.tables, p, joint, memory}};
        float* keypoints = w.people.keypoints + joint * 3;
        bool missing = false;
        for (int person = 0; person < people; ++person)
            missing |= keypoints[size_t(person) * r.joints * 3 + 2] == 0.0f;
        if (missing) bound_all_tags(group, refinement.ranges, 0, 1, columns);
        group.barrier();
        refine_joint(group, refinement, {people, 0, 1}, w.people.person_tags,
                     {keypoints, keypoints, r.joints * 3}, scratch);
        group.barrier();
    }
}

// The steps after peaks, by a group; every thread of it gets the number of people.
template <class Group>
int people_of(const Group& group, const ImageRequest& r, const Workspace& w, const Projection& p,
              const TagMaps& tags) {
    const int people = group_image(group, r, w, p);
    if (r.settings.refine && people > 0) refine_all(group, r, w, p, tags, people);
    return people;
}

inline ImageResult decode_image(const ImageRequest& r, void* memory) {
    const Workspace w = carve(r, memory);
    const Projection p = projection_of(r, w);
    const TagMaps tags = tag_maps_of(r, w);
    fill_tables(p, tags, w.tables);
    int bad = 0;
    for (int joint = 0; joint < r.joints && !bad;
         ++joint) {  // joint by joint, while its heat is in the cache
        bad = aggregate_joint(r, w, joint);
        if (!bad) find_joint_peaks(SingleThread{}, r, w, p, tags, joint);
    }
    const int people = bad ? 0 : people_of(SingleThread{}, r, w, p, tags);
    return {w.people.keypoints, w.people.scores, w.people.joint_tags, people, bad};
}

inline size_t workspace_bytes(const ImageRequest& r) { return carve(r, nullptr).bytes; }

HHRNET_END
