// Step 8: the best M local maxima of every joint's heat on the grid (group.py:121-167).
//
// Better means more heat, and of equal heat the lower y*W + x: a total order, so the result does not depend
// on the order in which threads find peaks.
#pragma once

#include "sample.h"
#include "tiles.h"

HHRNET_BEGIN

struct Peak {
    float value;
    int index;
};

HHRNET_HD bool better(const Peak& a, const Peak& b) {
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

constexpr int kPending = 2 * kTile * kTile;
constexpr int kPatches = 16 * 22 * 24;  // 16 teams with windows up to 7; fewer at once with larger ones

// What a group shares while it looks for the peaks of one joint (shared memory on the GPU).
struct PeakScratch {
    float patch[kPatches];
    Peak kept[kMaxCandidates];
    Peak next[kMaxCandidates];
    Peak pending[kPending];
    int kept_count, pending_count, live_count;
};

struct PeakSearch {
    const Projection& projection;
    const TileTables* tables;  // for one thread
    int joint;
    float threshold;
    int reach;                // half of the window
    int limit;                // M
    int part = 0, parts = 1;  // the tiles searched: every parts-th from this one on

    // Where the list of live tiles, one place per tile of the joint, holds the part's i-th.
    HHRNET_HD int place(int i) const { return part + i * parts; }
};

// A peak has to be better than this one to be kept.
HHRNET_HD Peak least_kept(const PeakSearch& search, const PeakScratch& s) {
    return s.kept_count < search.limit ? Peak{search.threshold, -1} : s.kept[search.limit - 1];
}

// Moves the pending peaks among the kept ones, which stay sorted. Ends with a barrier.
template <class Group>
HHRNET_HD void merge_pending(const Group& group, int limit, PeakScratch& s) {
    if constexpr (Group::single) {
        for (int i = 0; i < s.pending_count; ++i) {
            const Peak peak = s.pending[i];
            if (s.kept_count == limit && !better(peak, s.kept[limit - 1])) continue;
            int place = s.kept_count < limit ? s.kept_count++ : limit - 1;
            for (; place > 0 && better(peak, s.kept[place - 1]); --place) s.kept[place] = s.kept[place - 1];
            s.kept[place] = peak;
        }
        s.pending_count = 0;
    } else {
        const int kept = s.kept_count, total = kept + s.pending_count;
        const auto entry = [&](int i) { return i < kept ? s.kept[i] : s.pending[i - kept]; };
        for (int i = group.rank(); i < total; i += group.size()) {
            const Peak peak = entry(i);
            int place = 0;
            for (int other = 0; other < total; ++other) place += better(entry(other), peak);
            if (place < limit) s.next[place] = peak;
        }
        group.barrier();
        const int count = least(total, limit);
        for (int i = group.rank(); i < count; i += group.size()) s.kept[i] = s.next[i];
        if (group.rank() == 0) {
            s.kept_count = count;
            s.pending_count = 0;
        }
        group.barrier();
    }
}

// A tile, and the patch of it and what of its surroundings lies inside the grid.
struct TileWindow {
    Span rows, columns;
    PatchArea patch;

    HHRNET_HD TileWindow(const Projection& p, int tile, int reach)
        : rows(tile_span(tile / p.tiles_wide(), p.height)),
          columns(tile_span(tile % p.tiles_wide(), p.width)) {
        patch.y0 = greatest(rows.begin - reach, 0);
        patch.x0 = greatest(columns.begin - reach, 0);
        patch.height = least(rows.end + reach, p.height) - patch.y0;
        patch.width = least(columns.end + reach, p.width) - patch.x0;
    }
};

// Whether no value in a window cut at the area's edges is larger; the patch's rows are area.width apart.
HHRNET_HD bool is_largest(const float* patch, const PatchArea& area, int reach, int y, int x) {
    const float value = patch[y * area.width + x];
    bool larger = false;
    for (int v = greatest(y - reach, 0); v <= least(y + reach, area.height - 1) && !larger; ++v)
        for (int u = greatest(x - reach, 0); u <= least(x + reach, area.width - 1); ++u)
            larger |= patch[v * area.width + u] > value;
    return !larger;
}

// The heat of an area, by a team; the patch's rows are area.width apart, and there is one for each row of a
// strip. Ends with a barrier of the team.
template <class Team>
HHRNET_HD void fill_patch(const Team& team, const Projection& p, int joint, const PatchArea& area,
                          float* patch) {
    const Strips strips(area);
    for (int index = team.rank(); index < strips.count; index += team.size()) {
        const int y = strips.y(index), x = strips.x(index);
        float heat[kStrip];
        sample_heat_column(p, joint, area.y0 + y, area.x0 + x, heat);
        float* to = patch + y * area.width + x;
        for (int i = 0; i < kStrip; ++i) to[i * area.width] = heat[i];
    }
    team.barrier();
}

// Which pixels of a strip at (y, x) of the area, one bit each, may be peaks for what its column says.
HHRNET_HD uint32_t summits(const float* patch, const PatchArea& area, int reach, int y, int x, float above) {
    float value[kStrip + 2];
    for (int i = 0; i < kStrip + 2; ++i)
        value[i] = patch[clamped(y - 1 + i, 0, area.height - 1) * area.width + x];
    uint32_t found = 0;
    for (int i = 0; i < kStrip; ++i) {
        const float here = value[i + 1];
        const bool summit = !(value[i] > here || value[i + 2] > here) || reach == 0;
        found |= uint32_t(summit && !(here < above) && y + i < area.height) << i;
    }
    return found;
}

// A team appends the tile's peaks to the pending ones, which count on where there is no room for more.
template <class Group, class Team>
HHRNET_HD void test_tile(const Group& group, const Team& team, const PeakSearch& search, int tile,
                         float* patch, PeakScratch& s) {
    const Projection& p = search.projection;
    const TileWindow w(p, tile, search.reach);
    PatchArea area = w.patch;
    area.height += area.y0 % 2;  // strips begin in even rows
    area.y0 -= area.y0 % 2;
    const Peak least_good = least_kept(search, s);
    fill_patch(team, p, search.joint, area, patch);
    const int top = w.rows.begin - area.y0, left = w.columns.begin - area.x0;
    const Strips strips({0, 0, w.rows.end - w.rows.begin, w.columns.end - w.columns.begin});
    for (int index = team.rank(); index < strips.count; index += team.size()) {
        const int y = top + strips.y(index), x = left + strips.x(index);
        uint32_t found = summits(patch, area, search.reach, y, x, least_good.value);
        HHRNET_ROLLED
        for (; found != 0; found &= found - 1) {
            const int row = y + lowest_bit(found);
            const Peak peak = {patch[row * area.width + x], (area.y0 + row) * p.width + area.x0 + x};
            if (area.y0 + row >= w.rows.end || !better(peak, least_good)) continue;
            if (!is_largest(patch, area, search.reach, row, x)) continue;
            const int place = group.add(&s.pending_count, 1);
            if (place < kPending) s.pending[place] = peak;
        }
    }
    team.barrier();
}

// The same by one thread, with the window's maximum made separably; returns the tile's largest heat.
inline float test_tile_rows(const PeakSearch& search, const TileWindow& w, PeakScratch& s) {
    const int top = w.rows.begin - w.patch.y0, left = w.columns.begin - w.patch.x0;
    const int high = w.rows.end - w.rows.begin, wide = w.columns.end - w.columns.begin;
    const float largest = patch_maximum(s.patch + top * kPatch + left, high, wide);
    if (!(largest > search.threshold)) return largest;

    float across[kPatch * kTile];  // the maximum of each patch row's window
    for (int y = 0; y < w.patch.height; ++y) {
        float* __restrict__ out = across + y * kTile;
        const float* __restrict__ row = s.patch + y * kPatch;
        for (int x = 0; x < wide; ++x) out[x] = row[left + x];
        for (int shift = -search.reach; shift <= search.reach; ++shift) {
            const int begin = greatest(0, -(left + shift)), end = least(wide, w.patch.width - left - shift);
            for (int x = begin; x < end; ++x) out[x] = greatest(out[x], row[left + shift + x]);
        }
    }
    for (int y = 0; y < high; ++y) {
        float window[kTile];
        for (int x = 0; x < wide; ++x) window[x] = across[(top + y) * kTile + x];
        const int begin = greatest(0, top + y - search.reach),
                  end = least(w.patch.height, top + y + search.reach + 1);
        for (int v = begin; v < end; ++v)
            for (int x = 0; x < wide; ++x) window[x] = greatest(window[x], across[v * kTile + x]);
        const float* row = s.patch + (top + y) * kPatch + left;
        for (int x = 0; x < wide; ++x) {
            if (!(row[x] == window[x])) continue;
            const Peak peak = {row[x], (w.rows.begin + y) * search.projection.width + w.columns.begin + x};
            if (better(peak, least_kept(search, s))) s.pending[s.pending_count++] = peak;
        }
    }
    return largest;
}

// Writes the bound of every tile and lists those that may hold a candidate.
template <class Group>
HHRNET_HD void bound_tiles(const Group& group, const PeakSearch& search, float* bounds, int* live,
                           PeakScratch& s) {
    if (group.rank() == 0) s.live_count = s.kept_count = s.pending_count = 0;
    group.barrier();
    if constexpr (Group::single) heat_bounds(search.projection, search.joint, *search.tables, bounds);
    const int step = group.size() * search.parts;
    for (int tile = search.place(group.rank()); tile < search.projection.tiles(); tile += step) {
        if constexpr (!Group::single) bounds[tile] = heat_bound(search.projection, search.joint, tile);
        if (bounds[tile] > search.threshold) live[search.place(group.add(&s.live_count, 1))] = tile;
    }
    group.barrier();
}

// Whether a tile may hold a candidate that is better than those kept.
HHRNET_HD bool worth_a_look(const PeakSearch& search, const PeakScratch& s, float bound) {
    return s.kept_count < search.limit || !(bound < s.kept[search.limit - 1].value);
}

// Tile by tile; the group of one keeps each tile's largest heat in the place of its bound.
HHRNET_HD void search_tiles(const SingleThread& group, const PeakSearch& search, float* bounds,
                            const int* live, PeakScratch& s) {
    for (int i = 0; i < s.live_count; ++i) {
        const int tile = live[search.place(i)];
        if (!worth_a_look(search, s, bounds[tile])) continue;
        const TileWindow window(search.projection, tile, search.reach);
        fill_patch(search.projection, search.joint, window.patch, s.patch);
        bounds[tile] = test_tile_rows(search, window, s);
        if (s.pending_count > 0) merge_pending(group, search.limit, s);
    }
}

// A tile for each team at a time. Ends with a barrier.
template <class Group>
HHRNET_HD void search_tiles(const Group& group, const PeakSearch& search, float* bounds, const int* live,
                            PeakScratch& s) {
    const auto team = group.team();
    const int side = kTile + 2 * search.reach, own = (ceil_div(side + 1, kStrip) * kStrip) * side,
              room = kPatches / own;
    const int teams = least(room, team.count()), live_count = s.live_count;
    float* patch = s.patch + team.index() * own;
    for (int first = 0; first < live_count; first += teams) {
        const int pending = s.pending_count, i = first + team.index();
        group.barrier();
        if (team.index() < teams && i < live_count) {
            const int tile = live[search.place(i)];
            if (worth_a_look(search, s, bounds[tile])) test_tile(group, team, search, tile, patch, s);
        }
        group.barrier();
        if (s.pending_count <= kPending / 2) continue;
        const bool overfull = s.pending_count > kPending;
        group.barrier();
        if (overfull && group.rank() == 0) s.pending_count = pending;  // what came since did not all fit
        group.barrier();
        merge_pending(group, search.limit, s);
        for (int tile = first; overfull && tile < least(first + teams, live_count); ++tile) {
            if (team.index() == 0) test_tile(group, team, search, live[search.place(tile)], patch, s);
            group.barrier();
            merge_pending(group, search.limit, s);
        }
    }
    merge_pending(group, search.limit, s);
}

// Finds the candidates of one joint, or those in a part of its tiles: `bounds` and `live` have one place per
// tile of the joint; the candidates end up in s.kept.
template <class Group>
HHRNET_HD void find_peaks(const Group& group, const PeakSearch& search, float* bounds, int* live,
                          PeakScratch& s) {
    bound_tiles(group, search, bounds, live, s);
    search_tiles(group, search, bounds, live, s);
}

// Writes the candidates of one joint or part of it; places beyond their number hold zeros.
template <class Group>
HHRNET_HD void write_candidates(const Group& group, const PeakSearch& search, const TagMaps& tags,
                                const PeakScratch& s, const Candidates& out) {
    const int first = (search.joint * search.parts + search.part) * search.limit,
              width = search.projection.width;
    for (int i = group.rank(); i < search.limit; i += group.size()) {
        const bool used = i < s.kept_count;
        out.value[first + i] = used ? s.kept[i].value : 0.0f;
        out.index[first + i] = used ? s.kept[i].index : 0;
    }
    for (int i = group.rank(); i < search.limit * tags.dims; i += group.size()) {
        const int which = i / tags.dims, index = which < s.kept_count ? s.kept[which].index : 0;
        float* tag = out.tag + size_t(first) * tags.dims + i;
        *tag = which < s.kept_count
                   ? sample_tag(tags, search.joint, i % tags.dims, {tags, index / width, index % width})
                   : 0.0f;
    }
}

HHRNET_END
