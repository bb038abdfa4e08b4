// Step 12: look for each person's missing joints by tag (group.py:198-281).
//
// The place of a joint is the first maximum, row by row, of heat - round_half_even(L2 distance to the
// person's tag). It is found best-first: the most promising tile, then only tiles whose bound reaches the
// best value so far. A place is packed into 64 bits, value above inverted index, so that one atomic maximum
// decides and ties go to the first.
#pragma once

#include "adjust.h"
#include "tag_ranges.h"
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

// What one thread keeps of a joint, one place per tile.
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
    TilePatches* patches;  // these two for one thread
    TileReach reach;
    int joint;
    float* bounds;  // the heat bound of every tile
    TagRanges ranges;

    HHRNET_HD float distance(const float* person_tag, int y, int x) const {
        const TagPlace place(tags, y, x);
        float squared = 0.0f;
        for (int dim = 0; dim < tags.dims; ++dim) {
            const float tag = sample_tag(tags, joint, dim, place);
            const float difference = tag - person_tag[dim];
            squared = squared + difference * difference;
        }
        return sqrtf(squared);
    }
};

// The bound of a tile for a person's tag: no rounded distance is smaller.
HHRNET_HD float nearest_tag(const Refinement& r, const float* person_tag, int tile) {
    const int tiles = r.projection.tiles();
    float squared = 0.0f;
    for (int dim = 0; dim < r.tags.dims; ++dim) {
        const float low = r.ranges.low[size_t(dim) * tiles + tile],
                    high = r.ranges.high[size_t(dim) * tiles + tile], tag = person_tag[dim];
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
        const float* HHRNET_RESTRICT low = r.ranges.low + size_t(dim) * tiles;
        const float* HHRNET_RESTRICT high = r.ranges.high + size_t(dim) * tiles;
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

// Raises `best` to a pixel's value. Before the first place `best` is NaN as a value: it compares false.
HHRNET_HD void raise_place(PlaceKey& best, float value, int index) {
    if (value < value_of(best)) return;
    best = greatest(best, place_key(value, index));
}

// The same from its heat, unless that cannot reach it.
inline void try_pixel(const Refinement& r, const float* person_tag, float heat, float nearest, int y, int x,
                      PlaceKey& best) {
    if (heat - nearest < value_of(best)) return;
    raise_place(best, heat - rintf(r.distance(person_tag, y, x)), y * r.projection.width + x);
}

constexpr int kSearchRows = 8;  // of a tile that a team searches at once: one strip for each thread of a warp
constexpr int kSearchParts = kTile / kSearchRows;

// Raises `best` to the best pixel of a strip of `rows` rows from (y, x) on, by one thread.
HHRNET_HD void search_strip(const Refinement& r, const float* person_tag, float nearest, int rows, int y,
                            int x, PlaceKey& best) {
    float heat[kStrip];
    sample_heat_column(r.projection, r.joint, y, x, heat);
    const float limit = value_of(best);
    bool reaching = false;
    for (int i = 0; i < kStrip; ++i) reaching |= i < rows && !(heat[i] - nearest < limit);
    if (!reaching) return;
    float squared[kStrip] = {};
    HHRNET_ROLLED
    for (int dim = 0; dim < r.tags.dims; ++dim) {
        float tags[kStrip];
        sample_tag_column(r.tags, r.joint, dim, y, x, tags);
        for (int i = 0; i < kStrip; ++i) {
            const float difference = tags[i] - person_tag[dim];
            squared[i] = squared[i] + difference * difference;
        }
    }
    for (int i = 0; i < kStrip; ++i)
        if (i < rows) raise_place(best, heat[i] - rintf(sqrtf(squared[i])), (y + i) * r.projection.width + x);
}

// Raises `shared`, which other teams may be raising, to the best place of a part of a tile, by a team.
template <class Group, class Team>
HHRNET_HD void search_tile(const Group& group, const Team& team, const Refinement& r, const float* person_tag,
                           int tile, int part, PlaceKey& shared) {
    const PlaceKey before = team.from(team.rank() == 0 ? group.raise(&shared, 0) : 0, 0);
    const float nearest = nearest_tag(r, person_tag, tile);
    if (r.bounds[tile] - nearest < value_of(before)) return;
    PatchArea area = TileWindow(r.projection, tile, 0).patch;
    area.y0 += part * kSearchRows;
    area.height = least(area.height - part * kSearchRows, kSearchRows);
    if (area.height <= 0) return;
    const Strips strips(area);
    PlaceKey best = before;
    for (int i = team.rank(); i < strips.count; i += team.size())
        search_strip(r, person_tag, nearest, least(kStrip, area.height - strips.y(i)), area.y0 + strips.y(i),
                     area.x0 + strips.x(i), best);
    best = team_greatest(team, best);
    if (team.rank() == 0) group.raise(&shared, best);
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

constexpr int kSearchers = 32;  // the most people that a group searches for at once
constexpr int kTasks = 2048;

struct SearchTask {
    int searcher, tile;
};

// Who misses a joint is dealt out one by one to so many groups; this one is the `part`-th.
struct Share {
    int people, part, parts;
};

// What a group shares while it refines one joint.
struct RefineScratch {
    int person[kSearchers];  // who misses the joint
    bool more;               // whether people are left to look at
    PlaceKey seed[kSearchers], best[kSearchers];
    int tasks[kTasks];  // tiles left to search: tile * kSearchers + searcher
    int searchers, count;

    // Tiles to search: everybody's seed, or those on the list, or, where it is too short, all for everybody.
    HHRNET_HD int tasks_of(bool seeds, int tiles) const {
        return seeds ? searchers : count <= kTasks ? count : searchers * tiles;
    }
    HHRNET_HD SearchTask task(bool seeds, int number) const {
        if (seeds) return {number, index_of(seed[number])};
        if (count > kTasks) return {number % searchers, number / searchers};
        return {tasks[number] % kSearchers, tasks[number] / kSearchers};
    }
};

// Finds the tile where the joint may be best for each person, its index in s.seed. The tiles are divided
// among the threads, the people are not.
template <class Group, class TagOf>
HHRNET_HD void find_seeds(const Group& group, const Refinement& r, const TagOf& tag_of, RefineScratch& s) {
    const auto team = group.team();
    for (int i = 0; i < s.searchers; ++i) {
        const float* tag = tag_of(s.person[i]);
        PlaceKey most = 0;
        HHRNET_UNROLL
        for (int tile = group.rank(); tile < r.projection.tiles(); tile += group.size())
            most = greatest(most, place_key(r.bounds[tile] - nearest_tag(r, tag, tile), tile));
        most = team_greatest(team, most);
        if (team.rank() == 0) group.raise(&s.seed[i], most);
    }
}

// Lists the tiles that may hold a better place for each person than the one found.
template <class Group, class TagOf>
HHRNET_HD void list_tasks(const Group& group, const Refinement& r, const TagOf& tag_of, RefineScratch& s) {
    for (int i = 0; i < s.searchers; ++i) {
        const float* tag = tag_of(s.person[i]);
        const float found = value_of(s.best[i]);
        const int seed = index_of(s.seed[i]);
        HHRNET_UNROLL
        for (int tile = group.rank(); tile < r.projection.tiles(); tile += group.size()) {
            if (tile == seed || !(r.bounds[tile] - nearest_tag(r, tag, tile) >= found)) continue;
            const int place = group.add(&s.count, 1);
            if (place < kTasks) s.tasks[place] = tile * kSearchers + i;
        }
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

// The keypoints of one joint before and after refining, which may be the same; `stride` from person to
// person.
struct JointKeypoints {
    const float* grouped;
    float* refined;
    int stride;

    HHRNET_HD bool missing(int person) const { return grouped[size_t(person) * stride + 2] == 0.0f; }
    HHRNET_HD float* of(int person) const { return refined + size_t(person) * stride; }
    HHRNET_HD void keep(int person) const {
        for (int i = 0; i < 3; ++i) of(person)[i] = grouped[size_t(person) * stride + i];
    }
};

// Takes this group's share of those who miss the joint, from person `next` on, as many as there is room for;
// `number` of them came before. By one team.
template <class Team>
HHRNET_HD void deal_people(const Team& team, const Share& share, const JointKeypoints& keypoints, int& next,
                           int& number, RefineScratch& s) {
    const uint32_t below = (1u << team.rank()) - 1u;
    int searchers = 0;
    for (; next < share.people; next += team.size()) {
        const int person = next + team.rank();
        const bool missing = person < share.people && keypoints.missing(person);
        const uint32_t all = team.ballot(missing);
        const bool own = missing && (number + count_bits(all & below)) % share.parts == share.part;
        const uint32_t owned = team.ballot(own);
        if (searchers + count_bits(owned) > kSearchers) break;
        if (own) keypoints.keep(person);
        if (own) s.person[searchers + count_bits(owned & below)] = person;
        searchers += count_bits(owned);
        number += count_bits(all);
    }
    if (team.rank() == 0) s.searchers = searchers;
    if (team.rank() == 0) s.more = next < share.people;
}

// Fills one joint type of all who miss it, by one thread.
HHRNET_HD void refine_joint(const SingleThread&, const Refinement& r, const Share& share,
                            const float* person_tags, const JointKeypoints& keypoints, RefineScratch*) {
    for (int person = 0; person < share.people; ++person) {
        if (!keypoints.missing(person)) continue;
        const float* tag = person_tags + size_t(person) * r.tags.dims;
        fill_keypoint(r, index_of(find_place(r, tag)), keypoints.of(person));
    }
}

// The same of a group's share of them. The bounds of the tags are there before.
template <class Group>
HHRNET_HD void refine_joint(const Group& group, const Refinement& r, const Share& share,
                            const float* person_tags, const JointKeypoints& keypoints,
                            RefineScratch* scratch) {
    RefineScratch& s = *scratch;
    const auto team = group.team();
    const auto tag_of = [&](int person) { return person_tags + size_t(person) * r.tags.dims; };
    int next = 0, number = 0;  // the first team's
    for (bool more = true; more;) {
        if (team.index() == 0) deal_people(team, share, keypoints, next, number, s);
        if (group.rank() == 0) s.count = 0;
        for (int i = group.rank(); i < kSearchers; i += group.size()) s.seed[i] = s.best[i] = 0;
        group.barrier();
        more = s.more;
        if (s.searchers == 0 && !more) return;
        find_seeds(group, r, tag_of, s);
        group.barrier();
        HHRNET_ROLLED
        for (int round = 0; round < 2; ++round) {
            const bool seeds = round == 0;
            const int pieces = s.tasks_of(seeds, r.projection.tiles()) * kSearchParts;
            for (int i = team.index(); i < pieces; i += team.count()) {
                const SearchTask task = s.task(seeds, i / kSearchParts);
                search_tile(group, team, r, tag_of(s.person[task.searcher]), task.tile, i % kSearchParts,
                            s.best[task.searcher]);
            }
            group.barrier();
            if (!seeds) break;
            list_tasks(group, r, tag_of, s);
            group.barrier();
        }
        for (int i = group.rank(); i < s.searchers; i += group.size())
            fill_keypoint(r, index_of(s.best[i]), keypoints.of(s.person[i]));
        group.barrier();
    }
}

HHRNET_END
