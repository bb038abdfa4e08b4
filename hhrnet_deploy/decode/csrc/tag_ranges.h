// The range of a joint's tags in every tile: what refine needs to leave tiles out.
#pragma once

#include "thread_group.h"
#include "tiles.h"

HHRNET_BEGIN

struct TagRanges {
    const TagMaps& maps;
    const TileTables* tables;  // for one thread
    int joint, tiles_wide, tiles_high;
    float *low, *high;  // (L, tiles)

    // `memory` has the place for them.
    HHRNET_HD TagRanges(const TagMaps& maps, const TileTables* tables, const Projection& p, int joint,
                        float* memory)
        : maps(maps),
          tables(tables),
          joint(joint),
          tiles_wide(p.tiles_wide()),
          tiles_high(p.tiles_high()),
          low(memory),
          high(memory + size_t(p.tiles()) * maps.dims) {}

    HHRNET_HD static size_t floats(int tiles, int dims) { return size_t(tiles) * 2 * dims; }
    HHRNET_HD int tiles() const { return tiles_wide * tiles_high; }
};

// The range of the tags in every tile, margin included, by one thread, row by row.
inline void bound_tag_rows(const TagRanges& r, int dim) {
    const TagSide& side = r.maps.side[dim];
    const float* map = side.joint(r.joint);
    const SpanTable& spans = r.tables->tags[dim];
    float *low = r.low + size_t(dim) * r.tiles(), *high = r.high + size_t(dim) * r.tiles();
    for (int row = 0; row < r.tiles_high; ++row) {
        smallest_rows(map, side.row_stride, r.maps.coarse_width, spans.rows[row], r.tables->low);
        largest_rows(map, side.row_stride, r.maps.coarse_width, spans.rows[row], r.tables->high);
        for (int column = 0; column < r.tiles_wide; ++column, ++low, ++high) {
            *low = -raised_by_margin(-smallest_of(r.tables->low, spans.columns[column]));
            *high = raised_by_margin(largest_of(r.tables->high, spans.columns[column]));
        }
    }
}

// Where the teams of a group keep the ranges of columns.
struct TagScratch {
    static constexpr int kTeams = 16, kColumns = 264;
    static constexpr int kTiles = 16;  // of a row that a team bounds at once, at most one for each thread

    float low[kTeams][kColumns], high[kTeams][kColumns];
};

// The same for tiles side by side from number `first` on, by a team: the range of each column first, then a
// tile for each thread.
template <class Team>
HHRNET_HD void bound_tag_tiles(const Team& team, const TagRanges& r, int dim, int first, int count,
                               float* low, float* high) {
    const TagMaps& t = r.maps;
    const int wide = r.tiles_wide;
    const TagSide side = t.of(dim);
    const float* map = side.joint(r.joint);
    const Span rows = tag_span(t.fine_rows, t.grid_rows, first / wide, false);
    const Span own =
        tag_span(t.fine_columns, t.grid_columns, first % wide + least(team.rank(), count - 1), dim == 1);
    const int begin = least(team.from(own.begin, 0), team.from(own.begin, count - 1)),
              end = greatest(team.from(own.end, 0), team.from(own.end, count - 1));
    float lowest = float_of(0x7f800000u), highest = float_of(0xff800000u);
    for (int piece = begin; piece < end; piece += TagScratch::kColumns) {
        const int piece_end = least(piece + TagScratch::kColumns, end);
        for (int x = piece + team.rank(); x < piece_end; x += team.size()) {
            float least_here = float_of(0x7f800000u), most_here = float_of(0xff800000u);
            for_each_value<4, 1>(map, side.row_stride, rows, {x, x + 1}, [&](float value) {
                least_here = least(least_here, value);
                most_here = greatest(most_here, value);
            });
            low[x - piece] = least_here;
            high[x - piece] = most_here;
        }
        team.barrier();
        const Span seen = {greatest(own.begin, piece) - piece, least(own.end, piece_end) - piece};
        for_each_value<1, 4>(low, 0, {0, 1}, seen, [&](float value) { lowest = least(lowest, value); });
        for_each_value<1, 4>(high, 0, {0, 1}, seen, [&](float value) { highest = greatest(highest, value); });
        team.barrier();
    }
    if (team.rank() >= count) return;
    const size_t place = size_t(dim) * r.tiles() + first + team.rank();
    r.low[place] = -raised_by_margin(-lowest);
    r.high[place] = raised_by_margin(highest);
}

// The same by a group: of all pieces of rows of tiles every parts-th from `part` on.
template <class Group>
HHRNET_HD void bound_all_tags(const Group& group, const TagRanges& r, int part, int parts,
                              TagScratch* scratch) {
    if constexpr (Group::single) {
        for (int dim = 0; dim < r.maps.dims; ++dim) bound_tag_rows(r, dim);
    } else {
        const auto team = group.team();
        const int wide = r.tiles_wide, dims = r.maps.dims, most = least(team.size(), TagScratch::kTiles),
                  pieces = ceil_div(wide, most);
        const int index = team.index(), teams = least(team.count(), TagScratch::kTeams);
        for (int i = part + index * parts; index < teams && i < r.tiles_high * pieces * dims;
             i += teams * parts) {
            const int column = i / dims % pieces * most, first = i / dims / pieces * wide + column;
            bound_tag_tiles(team, r, i % dims, first, least(most, wide - column), scratch->low[index],
                            scratch->high[index]);
        }
        group.barrier();
    }
}

HHRNET_END
