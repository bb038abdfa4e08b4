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

// What one thread keeps of the tile it searches.
struct TilePatches {
    float heat[kTile * kPatch], tags[kTile * kPatch], values[kTile * kPatch];
};

// Scratch of one joint, one place per tile.
struct TileTags {
    float *low, *high;  // (L, tiles): the range of the tags

    HHRNET_HD static size_t floats(int tiles, int dims) { return size_t(tiles) * 2 * dims; }
    HHRNET_HD static TileTags at(float* memory, int tiles, int dims) {
        return {memory, memory + size_t(tiles) * dims};
    }
};

// What the group of one keeps beside it, one place per tile.
struct TileReach {
    float* rounded;    // the least rounded distance to the person's tag
    float* reachable;  // the largest value
    int* live;         // the tiles left to search

    static size_t bytes(int tiles) { return (2 * sizeof(float) + sizeof(int)) * tiles; }
    static TileReach at(void* memory, int tiles) {
        float* rounded = static_cast<float*>(memory);
        return {rounded, rounded + tiles, reinterpret_cast<int*>(rounded + 2 * size_t(tiles))};
    }
};

struct Refinement {
    const Projection& projection;
    const TagMaps& tags;
    const TileTables* tables;  // these three for one thread
    TilePatches* patches;
    TileReach reach;
    int joint, joints;
    float* bounds;  // the heat bound of every tile
    TileTags tiles;

    HHRNET_HD float distance(const float* person_tag, int y, int x) const {
        float squared = 0.0f;
        for (int dim = 0; dim < tags.dims; ++dim) {
            const float tag = sample_tag(tags, joint, dim, y, x);
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
    const Span rows = tag_span(t.fine_rows, t.grid_rows, tile / p.tiles_wide(), false);
    const Span columns = tag_span(t.fine_columns, t.grid_columns, tile % p.tiles_wide(), dim == 1);
    const TagSide side = t.of(dim);
    const float* map = side.joint(r.joint);
    const long stride = side.row_stride;
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

// The bound of a tile for a person's tag: no rounded distance is smaller.
HHRNET_HD float nearest_tag(const Refinement& r, const float* person_tag, int tile) {
    const int tiles = r.projection.tiles();
    float squared = 0.0f;
    for (int dim = 0; dim < r.tags.dims; ++dim) {
        const float low = r.tiles.low[size_t(dim) * tiles + tile],
                    high = r.tiles.high[size_t(dim) * tiles + tile], tag = person_tag[dim];
        const float outside = greatest(greatest(low - tag, tag - high), 0.0f);
        squared = squared + outside * outside;
    }
    return rintf(sqrtf(squared) * (1.0f - kMargin));
}

// The same of every tile, and that no heat - round(distance) is larger, by one thread.
inline void bound_places(const Refinement& r, const float* person_tag) {
    const int tiles = r.projection.tiles();
    float *HHRNET_RESTRICT rounded = r.reach.rounded, *HHRNET_RESTRICT reachable = r.reach.reachable;
    const float* HHRNET_RESTRICT bounds = r.bounds;
    for (int dim = 0; dim < r.tags.dims; ++dim) {
        const float* HHRNET_RESTRICT low = r.tiles.low + size_t(dim) * tiles;
        const float* HHRNET_RESTRICT high = r.tiles.high + size_t(dim) * tiles;
        const float tag = person_tag[dim];
        for (int tile = 0; tile < tiles; ++tile) {
            const float outside = greatest(greatest(low[tile] - tag, tag - high[tile]), 0.0f);
            const float before = dim == 0 ? 0.0f : rounded[tile];
            rounded[tile] = before + outside * outside;
        }
    }
    for (int tile = 0; tile < tiles; ++tile) {
        rounded[tile] = rintf(sqrtf(rounded[tile]) * (1.0f - kMargin));
        reachable[tile] = bounds[tile] - rounded[tile];
    }
}

// Raises `best` by one pixel, unless its heat cannot reach it. Before the first place `best` is NaN as a
// value: it compares false.
HHRNET_HD void try_pixel(const Refinement& r, const float* person_tag, float heat, float nearest, int y,
                         int x, PlaceKey& best) {
    const float limit = value_of(best);
    if (heat - nearest < limit) return;
    const float value = heat - rintf(r.distance(person_tag, y, x));
    if (value < limit) return;
    best = greatest(best, place_key(value, y * r.projection.width + x));
}

// Raises `best`, which other teams may be raising, to the best place of a tile, by a team; its value after
// that.
template <class Group, class Team>
HHRNET_HD PlaceKey search_tile(const Group& group, const Team& team, const Refinement& r,
                               const float* person_tag, int tile, PlaceKey& shared) {
    PlaceKey best = team.from(team.rank() == 0 ? group.raise(&shared, 0) : 0, 0);
    const float nearest = nearest_tag(r, person_tag, tile);
    if (r.bounds[tile] - nearest < value_of(best)) return best;
    const PatchArea area = TileWindow(r.projection, tile, 0).patch;
    for (AreaWalk at(team.rank(), area.width); at.y < area.height; at.step(team.size())) {
        const int y = area.y0 + at.y, x = area.x0 + at.x;
        try_pixel(r, person_tag, sample_heat(r.projection, r.joint, y, x), nearest, y, x, best);
    }
    best = team_greatest(team, best);
    if (team.rank() == 0) group.raise(&shared, best);
    return best;
}

// heat - round(distance) of a whole patch, in patches.values; false where tags have to be sampled one by one.
inline bool fill_values(const Refinement& r, const float* person_tag, const PatchArea& area) {
    TilePatches& s = *r.patches;
    for (int dim = 0; dim < r.tags.dims; ++dim) {
        if (!fill_tag_patch(r.tags, r.joint, dim, area, s.tags)) return false;
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
inline PlaceKey search_patch(const Refinement& r, const float* person_tag, int tile, PlaceKey best) {
    constexpr int kFew = 8;
    const PatchArea area = TileWindow(r.projection, tile, 0).patch;
    const float nearest = r.reach.rounded[tile], limit = value_of(best);
    const TilePatches& patches = *r.patches;
    fill_patch(r.projection, r.joint, area, r.patches->heat);
    r.bounds[tile] = patch_maximum(patches.heat, area.height, area.width);
    if (r.bounds[tile] - nearest < limit) return best;
    const bool many = count_reaching(patches.heat, area, nearest, limit) > kFew;
    if (many && fill_values(r, person_tag, area)) {
        const float largest = patch_maximum(patches.values, area.height, area.width);
        for (int i = 0; !(largest < limit) && i < area.height * area.width; ++i) {
            const int y = i / area.width, x = i % area.width;
            if (patches.values[y * kPatch + x] != largest) continue;
            return greatest(best, place_key(largest, (area.y0 + y) * r.projection.width + area.x0 + x));
        }
        return best;
    }
    for (int i = 0; i < area.height * area.width; ++i) {
        const int y = i / area.width, x = i % area.width;
        try_pixel(r, person_tag, patches.heat[y * kPatch + x], nearest, area.y0 + y, area.x0 + x, best);
    }
    return best;
}

// The best place of the joint for one person's tag, by one thread.
inline PlaceKey find_place(const Refinement& r, const float* person_tag) {
    const int tiles = r.projection.tiles();
    const float* reachable = r.reach.reachable;
    bound_places(r, person_tag);
    int seed = 0, live = 0;
    for (int tile = 1; tile < tiles; ++tile)
        if (reachable[tile] > reachable[seed]) seed = tile;
    PlaceKey best = search_patch(r, person_tag, seed, 0);
    for (int tile = 0; tile < tiles; ++tile)
        if (reachable[tile] >= value_of(best) && tile != seed) r.reach.live[live++] = tile;
    for (int i = 0; i < live; ++i)
        if (reachable[r.reach.live[i]] >= value_of(best))
            best = search_patch(r, person_tag, r.reach.live[i], best);
    return best;
}

constexpr int kSearchers = 32;  // the most teams of a group that search side by side
constexpr int kTasks = 2048;

// What a group shares while it refines one joint.
struct RefineScratch {
    PlaceKey best[kSearchers];  // of the person that each team took
    int tasks[kTasks];          // tiles left to search: tile * kSearchers + team
    int count;
};

// The tile where the joint may be best for a person's tag, by a team.
template <class Team>
HHRNET_HD int most_promising(const Team& team, const Refinement& r, const float* person_tag) {
    PlaceKey most = 0;
    HHRNET_UNROLL
    for (int tile = team.rank(); tile < r.projection.tiles(); tile += team.size())
        most = greatest(most, place_key(r.bounds[tile] - nearest_tag(r, person_tag, tile), tile));
    return index_of(team_greatest(team, most));
}

// Searches the most promising tile for a person and lists the others that may hold a better place.
template <class Group, class Team>
HHRNET_HD void begin_search(const Group& group, const Team& team, const Refinement& r,
                            const float* person_tag, RefineScratch& s) {
    const int tiles = r.projection.tiles(), seed = most_promising(team, r, person_tag);
    const float found = value_of(search_tile(group, team, r, person_tag, seed, s.best[team.index()]));
    HHRNET_UNROLL
    for (int tile = team.rank(); tile < tiles; tile += team.size()) {
        if (tile == seed || !(r.bounds[tile] - nearest_tag(r, person_tag, tile) >= found)) continue;
        const int place = group.add(&s.count, 1);
        if (place < kTasks) s.tasks[place] = tile * kSearchers + team.index();
    }
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

// The same by one thread and, below, by a group, a person for each team and then all tiles left for all
// teams.
HHRNET_HD void refine_people(const SingleThread&, const Refinement& r, const Span& part, int,
                             const float* person_tags, float* keypoints, RefineScratch*) {
    for (int person = part.begin; person < part.end; ++person) {
        float* keypoint = keypoints + size_t(person) * r.joints * 3;
        if (keypoint[2] != 0.0f) continue;
        fill_keypoint(r, index_of(find_place(r, person_tags + size_t(person) * r.tags.dims)), keypoint);
    }
}

template <class Group>
HHRNET_HD void refine_people(const Group& group, const Refinement& r, const Span& part, int step,
                             const float* person_tags, float* keypoints, RefineScratch* scratch) {
    RefineScratch& s = *scratch;
    const auto team = group.team();
    const int teams = least(team.count(), kSearchers);
    const auto tag_of = [&](int person) { return person_tags + size_t(person) * r.tags.dims; };
    for (int first = part.begin; first < part.end; first += teams * step) {
        const int person = first + team.index() * step;
        float* keypoint = keypoints + size_t(person) * r.joints * 3;
        const bool takes = team.index() < teams && person < part.end && keypoint[2] == 0.0f;
        if (group.rank() == 0) s.count = 0;
        if (team.rank() == 0 && team.index() < teams) s.best[team.index()] = 0;
        group.barrier();
        if (takes) begin_search(group, team, r, tag_of(person), s);
        group.barrier();
        const int count = s.count;
        if (count <= kTasks) {
            for (int i = team.index(); i < count; i += team.count()) {
                const int owner = s.tasks[i] % kSearchers, tile = s.tasks[i] / kSearchers;
                search_tile(group, team, r, tag_of(first + owner * step), tile, s.best[owner]);
            }
        } else if (takes) {  // the list is too short
            for (int tile = 0; tile < r.projection.tiles(); ++tile)
                search_tile(group, team, r, tag_of(person), tile, s.best[team.index()]);
        }
        group.barrier();
        if (takes && team.rank() == 0) fill_keypoint(r, index_of(s.best[team.index()]), keypoint);
    }
}

// Fills one joint type of people `part`, every step-th, that miss it; `keypoints` are the joint's of the
// first.
template <class Group>
HHRNET_HD void refine_joint(const Group& group, const Refinement& r, Span part, int step,
                            const float* person_tags, float* keypoints, RefineScratch* scratch) {
    const auto has = [&](int person) { return keypoints[size_t(person) * r.joints * 3 + 2] != 0.0f; };
    while (part.begin < part.end && has(part.begin)) part.begin += step;
    if (part.begin >= part.end) return;
    bound_all_tags(group, r);
    group.barrier();
    refine_people(group, r, part, step, person_tags, keypoints, scratch);
}

HHRNET_END
