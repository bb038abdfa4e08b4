// Step 12: look for each person's missing joints by tag (group.py:198-281).
//
// The place of a joint is the first maximum, row by row, of heat - round_half_even(L2 distance to the
// person's tag). It is found best-first: the most promising tile, then only tiles whose bound reaches the
// best value so far. A place is packed into 64 bits, value above inverted index, so that one atomic maximum
// decides and ties go to the first.
#pragma once

#include "adjust.h"
#include "tiles.h"

HHRNET_BEGIN

using PlaceKey = unsigned long long;  // 0: none yet

HHRNET_HD uint32_t ordered(float value) {
    const uint32_t bits = bits_of(value + 0.0f);  // -0 becomes 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

HHRNET_HD PlaceKey place_key(float value, int index) {
    return PlaceKey(ordered(value)) << 32 | (0xffffffffu - uint32_t(index));
}

HHRNET_HD float value_of(PlaceKey key) {
    const uint32_t bits = uint32_t(key >> 32);
    return float_of(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

HHRNET_HD int index_of(PlaceKey key) { return int(0xffffffffu - uint32_t(key)); }

// What a group shares while it refines one joint.
struct RefineScratch {
    PlaceKey seed, best;
    int live_count;
};

// What one thread keeps of the tile it searches.
struct TilePatches {
    float heat[kTile * kPatch], tags[kTile * kPatch], values[kTile * kPatch];
};

// Scratch of one joint, one place per tile (and tag side).
struct TileTags {
    float *low, *high;  // (L, tiles): the range of the tags
    float* rounded;     // (tiles): the least rounded distance to the person's tag
    float* reachable;   // (tiles): the largest value
    int* live;          // (tiles): the tiles left to search

    HHRNET_HD static size_t bytes(int tiles, int dims) {
        return sizeof(float) * tiles * (2 * dims + 2) + sizeof(int) * tiles;
    }
    HHRNET_HD static TileTags at(void* memory, int tiles, int dims) {
        float* low = static_cast<float*>(memory);
        float* high = low + size_t(tiles) * dims;
        float* rounded = high + size_t(tiles) * dims;
        return {low, high, rounded, rounded + tiles, reinterpret_cast<int*>(rounded + 2 * size_t(tiles))};
    }
};

struct Refinement {
    const Projection& projection;
    const TagMaps& tags;
    const TileTables* tables;  // these two for one thread
    TilePatches* patches;
    int joint, joints;
    float* bounds;  // the heat bound of every tile
    TileTags tiles;

    HHRNET_HD float distance(const float* person_tag, int y, int x) const {
        float squared = 0.0f;
        for (int dim = 0; dim < tags.dims; ++dim) {
            const float tag = sample_tag(tags, joint, dim, projection.width, projection.height, y, x);
            const float difference = tag - person_tag[dim];
            squared = squared + difference * difference;
        }
        return sqrtf(squared);
    }
};

// The range of the tags in one tile, margin included.
HHRNET_HD void bound_tags(const Refinement& r, int tile, int dim) {
    const TagMaps& t = r.tags;
    const Projection& p = r.projection;
    const Span rows = tag_span(t.coarse_height, t.fine_height, p.height, tile / p.tiles_wide(), false);
    const Span columns = tag_span(t.coarse_width, t.fine_width, p.width, tile % p.tiles_wide(), dim == 1);
    const float* map = t.side[dim].joint(r.joint);
    const long stride = t.side[dim].row_stride;
    float low = map[rows.begin * stride + columns.begin], high = low;
    for (int y = rows.begin; y < rows.end; ++y)
        for (int x = columns.begin; x < columns.end; ++x) {
            low = least(low, map[y * stride + x]);
            high = greatest(high, map[y * stride + x]);
        }
    r.tiles.low[size_t(dim) * p.tiles() + tile] = -raised_by_margin(-low);
    r.tiles.high[size_t(dim) * p.tiles() + tile] = raised_by_margin(high);
}

// The same for every tile, by one thread, row by row.
inline void bound_tag_rows(const Refinement& r, int dim) {
    const Projection& p = r.projection;
    const TagSide& side = r.tags.side[dim];
    const float* map = side.joint(r.joint);
    const SpanTable& spans = r.tables->tags[dim];
    float *low = r.tiles.low + size_t(dim) * p.tiles(), *high = r.tiles.high + size_t(dim) * p.tiles();
    for (int row = 0; row < p.tiles_high(); ++row) {
        smallest_rows(map, side.row_stride, r.tags.coarse_width, spans.rows[row], r.tables->low);
        largest_rows(map, side.row_stride, r.tags.coarse_width, spans.rows[row], r.tables->high);
        for (int column = 0; column < p.tiles_wide(); ++column, ++low, ++high) {
            *low = -raised_by_margin(-smallest_of(r.tables->low, spans.columns[column]));
            *high = raised_by_margin(largest_of(r.tables->high, spans.columns[column]));
        }
    }
}

template <class Group>
HHRNET_HD void bound_all_tags(const Group& group, const Refinement& r) {
    if constexpr (Group::single) {
        for (int dim = 0; dim < r.tags.dims; ++dim) bound_tag_rows(r, dim);
    } else {
        for (int i = group.rank(); i < r.projection.tiles() * r.tags.dims; i += group.size())
            bound_tags(r, i / r.tags.dims, i % r.tags.dims);
    }
}

// Bounds every tile for one person's tag: no rounded distance is smaller, no heat - round(distance) is
// larger.
template <class Group>
HHRNET_HD void bound_places(const Group& group, const Refinement& r, const float* person_tag) {
    const int tiles = r.projection.tiles();
    float *HHRNET_RESTRICT rounded = r.tiles.rounded, *HHRNET_RESTRICT reachable = r.tiles.reachable;
    const float* HHRNET_RESTRICT bounds = r.bounds;
    for (int dim = 0; dim < r.tags.dims; ++dim) {
        const float* HHRNET_RESTRICT low = r.tiles.low + size_t(dim) * tiles;
        const float* HHRNET_RESTRICT high = r.tiles.high + size_t(dim) * tiles;
        const float tag = person_tag[dim];
        for (int tile = group.rank(); tile < tiles; tile += group.size()) {
            const float outside = greatest(greatest(low[tile] - tag, tag - high[tile]), 0.0f);
            const float before = dim == 0 ? 0.0f : rounded[tile];
            rounded[tile] = before + outside * outside;
        }
    }
    for (int tile = group.rank(); tile < tiles; tile += group.size()) {
        rounded[tile] = rintf(sqrtf(rounded[tile]) * (1.0f - kMargin));
        reachable[tile] = bounds[tile] - rounded[tile];
    }
}

// Raises s.best by one pixel, unless its heat cannot reach `limit`, the best value known to this thread.
template <class Group>
HHRNET_HD void try_pixel(const Group& group, const Refinement& r, const float* person_tag, float heat,
                         float nearest, int y, int x, float& limit, RefineScratch& s) {
    if (heat - nearest < limit) return;
    const float value = heat - rintf(r.distance(person_tag, y, x));
    if (value < limit) return;
    limit = value;
    group.raise(&s.best, place_key(value, y * r.projection.width + x));
}

// Raises s.best by the pixels of one tile.
template <class Group>
HHRNET_HD void search_tile(const Group& group, const Refinement& r, const float* person_tag, int tile,
                           RefineScratch& s) {
    const PatchArea area = TileWindow(r.projection, tile, 0).patch;
    float limit = value_of(group.peek(&s.best));  // NaN before the first place: compares false
    for (int i = group.rank(); i < area.height * area.width; i += group.size()) {
        const int y = area.y0 + i / area.width, x = area.x0 + i % area.width;
        const float heat = sample_heat(r.projection, r.joint, y, x);
        try_pixel(group, r, person_tag, heat, r.tiles.rounded[tile], y, x, limit, s);
    }
}

// heat - round(distance) of a whole patch, in patches.values; false where tags have to be sampled one by one.
inline bool fill_values(const Refinement& r, const float* person_tag, const PatchArea& area) {
    const Projection& p = r.projection;
    TilePatches& s = *r.patches;
    for (int dim = 0; dim < r.tags.dims; ++dim) {
        if (!fill_tag_patch(r.tags, r.joint, dim, p.width, p.height, area, s.tags)) return false;
        const float tag = person_tag[dim];
        for (int y = 0; y < area.height; ++y) {
            const float* __restrict__ tags = s.tags + y * kPatch;
            float* __restrict__ squared = s.values + y * kPatch;
            for (int x = 0; x < area.width; ++x) {
                const float difference = tags[x] - tag;
                squared[x] = (dim == 0 ? 0.0f : squared[x]) + difference * difference;
            }
        }
    }
    for (int y = 0; y < area.height; ++y) {
        const float* __restrict__ heat = s.heat + y * kPatch;
        float* __restrict__ values = s.values + y * kPatch;
        for (int x = 0; x < area.width; ++x) values[x] = heat[x] - rintf(sqrtf(values[x]));
    }
    return true;
}

inline int count_reaching(const float* patch, const PatchArea& area, float nearest, float limit) {
    int count = 0;
    for (int y = 0; y < area.height; ++y)
        for (int x = 0; x < area.width; ++x) count += !(patch[y * kPatch + x] - nearest < limit);
    return count;
}

// search_tile by one thread: the tile's largest heat replaces its bound, tags come patch by patch where many
// are needed.
inline void search_patch(const SingleThread& group, const Refinement& r, const float* person_tag, int tile,
                         RefineScratch& s) {
    constexpr int kFew = 8;
    const PatchArea area = TileWindow(r.projection, tile, 0).patch;
    const float nearest = r.tiles.rounded[tile];
    const TilePatches& patches = *r.patches;
    float limit = value_of(s.best);
    fill_patch(r.projection, r.joint, area, r.patches->heat);
    r.bounds[tile] = patch_maximum(patches.heat, area.height, area.width);
    if (r.bounds[tile] - nearest < limit) return;
    const bool many = count_reaching(patches.heat, area, nearest, limit) > kFew;
    if (many && fill_values(r, person_tag, area)) {
        const float best = patch_maximum(patches.values, area.height, area.width);
        for (int i = 0; !(best < limit) && i < area.height * area.width; ++i) {
            const int y = i / area.width, x = i % area.width;
            if (patches.values[y * kPatch + x] != best) continue;
            group.raise(&s.best, place_key(best, (area.y0 + y) * r.projection.width + area.x0 + x));
            return;
        }
        return;
    }
    for (int i = 0; i < area.height * area.width; ++i) {
        const int y = i / area.width, x = i % area.width;
        try_pixel(group, r, person_tag, patches.heat[y * kPatch + x], nearest, area.y0 + y, area.x0 + x,
                  limit, s);
    }
}

template <class Group>
HHRNET_HD void search(const Group& group, const Refinement& r, const float* person_tag, int tile,
                      RefineScratch& s) {
    if constexpr (Group::single) {
        search_patch(group, r, person_tag, tile, s);
    } else {
        search_tile(group, r, person_tag, tile, s);
    }
}

// The best place of the joint for one person's tag; leaves it in s.best. Ends with a barrier.
template <class Group>
HHRNET_HD void find_place(const Group& group, const Refinement& r, const float* person_tag,
                          RefineScratch& s) {
    const int tiles = r.projection.tiles();
    const float* reachable = r.tiles.reachable;
    if (group.rank() == 0) {
        s.seed = s.best = 0;
        s.live_count = 0;
    }
    bound_places(group, r, person_tag);
    group.barrier();
    int seed = group.rank();
    for (int tile = group.rank(); tile < tiles; tile += group.size())
        if (reachable[tile] > reachable[seed]) seed = tile;
    if (seed < tiles) group.raise(&s.seed, place_key(reachable[seed], seed));
    group.barrier();
    seed = index_of(s.seed);
    search(group, r, person_tag, seed, s);
    group.barrier();
    const float found = value_of(s.best);
    for (int tile = group.rank(); tile < tiles; tile += group.size())
        if (reachable[tile] >= found && tile != seed) r.tiles.live[group.add(&s.live_count, 1)] = tile;
    group.barrier();
    const int live = s.live_count;
    for (int i = 0; i < live; ++i) {
        const int tile = r.tiles.live[i];
        if (reachable[tile] >= value_of(group.peek(&s.best))) search(group, r, person_tag, tile, s);
    }
    group.barrier();
}

HHRNET_HD void fill_keypoint(const Refinement& r, int index, float* keypoint) {
    const Projection& p = r.projection;
    const int place = clamped(index, 0, p.width * p.height - 1);
    const int y = place / p.width, x = place % p.width;
    const float heat = sample_heat(p, r.joint, y, x);
    if (!(heat > 0.0f)) return;
    const Offset offset = quarter_offset(p, r.joint, x, y);
    keypoint[0] = (float(x) + 0.5f) + offset.x;
    keypoint[1] = (float(y) + 0.5f) + offset.y;
    keypoint[2] = heat;
}

// Fills one joint type of every person that misses it.
template <class Group>
HHRNET_HD void refine_joint(const Group& group, const Refinement& r, int people, const float* person_tags,
                            float* keypoints, RefineScratch& s) {
    const int dims = r.tags.dims;
    const auto keypoint_of = [&](int person) {
        return keypoints + (size_t(person) * r.joints + r.joint) * 3;
    };
    int first = 0;
    while (first < people && keypoint_of(first)[2] != 0.0f) ++first;
    if (first == people) return;
    bound_all_tags(group, r);
    group.barrier();
    for (int person = first; person < people; ++person) {
        float* keypoint = keypoint_of(person);
        if (keypoint[2] != 0.0f) continue;
        find_place(group, r, person_tags + size_t(person) * dims, s);
        if (group.rank() == 0) fill_keypoint(r, index_of(s.best), keypoint);
    }
}

HHRNET_END
