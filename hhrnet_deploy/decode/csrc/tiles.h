// Which tiles of the grid can matter: bounds of the projected heat and tags from the maps they are
// interpolated from.
//
// A bilinear value stays within its sources up to rounding; the margin below is eight times what four
// roundings, the sum over scales and the division can add.
#pragma once

#include "sample.h"

HHRNET_BEGIN

constexpr float kMargin = 0x1p-20f;

// The grid pixels of tile `index` along an axis of `size` pixels.
HHRNET_HD Span tile_span(int index, int size) { return {index * kTile, least((index + 1) * kTile, size)}; }

// The sources that the targets of `span` are interpolated from.
HHRNET_HD Span source_span(const Axis& axis, const Span& span) {
    return {axis.at(span.begin).index0, axis.at(span.end - 1).index1 + 1};
}

HHRNET_HD Span cell_span(const Span& span) { return {span.begin / kCell, ceil_div(span.end, kCell)}; }

// The mirrored image's columns for the columns `span` of an axis of `size` values.
HHRNET_HD Span mirrored_span(const Span& span, int size) { return {size - span.end, size - span.begin}; }

HHRNET_HD float raised_by_margin(float value) { return value + (value < 0.0f ? -value : value) * kMargin; }

// Visits the values of a part of a map, some of them more than once: in pieces of a fixed size, whose loads
// do not wait for each other.
template <int Rows, int Columns, class Visit>
HHRNET_HD void for_each_value(const float* map, long stride, const Span& rows, const Span& columns,
                              const Visit& visit) {
    for (int y = rows.begin; y < rows.end; y += Rows)
        for (int x = columns.begin; x < columns.end; x += Columns) {
            float value[Rows * Columns];
            for (int i = 0; i < Rows * Columns; ++i)
                value[i] = map[least(y + i / Columns, rows.end - 1) * stride +
                               least(x + i % Columns, columns.end - 1)];
            for (int i = 0; i < Rows * Columns; ++i) visit(value[i]);
        }
}

// No heat of `joint` in the tile is larger.
HHRNET_HD float heat_bound(const Projection& p, int joint, int tile) {
    const int row = tile / p.tiles_wide(), column = tile % p.tiles_wide();
    float total = 0.0f;
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        const Span rows = cell_span(source_span(map.rows, tile_span(row, p.height)));
        const Span columns = cell_span(source_span(map.columns, tile_span(column, p.width)));
        const float* cells = map.joint_cells(joint);
        const int wide = map.cells_wide();
        float largest = cells[rows.begin * wide + columns.begin];
        for_each_value<4, 4>(cells, wide, rows, columns,
                             [&](float value) { largest = greatest(largest, value); });
        total += raised_by_margin(largest);
    }
    return p.scales == 1 ? total : raised_by_margin(total / float(p.scales));
}

// The coarse rows (or columns) that the tags of a tile are interpolated from.
HHRNET_HD Span tag_span(const Axis& to_fine, const Axis& to_grid, int tile, bool mirrored) {
    Span span = source_span(to_grid, tile_span(tile, to_grid.target));
    if (mirrored) span = mirrored_span(span, to_fine.target);
    return source_span(to_fine, span);
}

// ---------------------------------------------------------------------------------- one thread, row by row

// The spans of every tile row and tile column, looked up instead of computed for each joint and tile.
struct SpanTable {
    Span *rows, *columns;
};

struct TileTables {
    SpanTable cells[kMaxScales];  // cells of the merged heat
    SpanTable tags[kMaxTagDims];  // coarse tags
    float *low, *high;            // a row of either
};

inline void fill_tables(const Projection& p, const TagMaps& t, const TileTables& tables) {
    for (int s = 0; s < p.scales; ++s) {
        const Axis &rows = p.scale[s].rows, &columns = p.scale[s].columns;
        for (int i = 0; i < p.tiles_high(); ++i)
            tables.cells[s].rows[i] = cell_span(source_span(rows, tile_span(i, p.height)));
        for (int i = 0; i < p.tiles_wide(); ++i)
            tables.cells[s].columns[i] = cell_span(source_span(columns, tile_span(i, p.width)));
    }
    for (int dim = 0; dim < t.dims; ++dim) {
        for (int i = 0; i < p.tiles_high(); ++i)
            tables.tags[dim].rows[i] = tag_span(t.fine_rows, t.grid_rows, i, false);
        for (int i = 0; i < p.tiles_wide(); ++i)
            tables.tags[dim].columns[i] = tag_span(t.fine_columns, t.grid_columns, i, dim == 1);
    }
}

inline float largest_of(const float* row, const Span& span) {
    float largest = row[span.begin];
    for (int x = span.begin + 1; x < span.end; ++x) largest = greatest(largest, row[x]);
    return largest;
}

inline float smallest_of(const float* row, const Span& span) {
    float smallest = row[span.begin];
    for (int x = span.begin + 1; x < span.end; ++x) smallest = least(smallest, row[x]);
    return smallest;
}

// Column by column, the largest of the rows in `span`.
inline void largest_rows(const float* map, long stride, int width, const Span& span,
                         float* __restrict__ out) {
    for (int x = 0; x < width; ++x) out[x] = map[span.begin * stride + x];
    for (int y = span.begin + 1; y < span.end; ++y) {
        const float* __restrict__ row = map + y * stride;
        for (int x = 0; x < width; ++x) out[x] = greatest(out[x], row[x]);
    }
}

inline void smallest_rows(const float* map, long stride, int width, const Span& span,
                          float* __restrict__ out) {
    for (int x = 0; x < width; ++x) out[x] = map[span.begin * stride + x];
    for (int y = span.begin + 1; y < span.end; ++y) {
        const float* __restrict__ row = map + y * stride;
        for (int x = 0; x < width; ++x) out[x] = least(out[x], row[x]);
    }
}

// heat_bound of every tile.
inline void heat_bounds(const Projection& p, int joint, const TileTables& tables, float* bounds) {
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        float* out = bounds;
        for (int row = 0; row < p.tiles_high(); ++row) {
            largest_rows(map.joint_cells(joint), map.cells_wide(), map.cells_wide(),
                         tables.cells[s].rows[row], tables.high);
            for (int column = 0; column < p.tiles_wide(); ++column, ++out) {
                const float bound =
                    raised_by_margin(largest_of(tables.high, tables.cells[s].columns[column]));
                *out = s == 0 ? bound : *out + bound;
            }
        }
    }
    if (p.scales == 1) return;
    for (int tile = 0; tile < p.tiles(); ++tile)
        bounds[tile] = raised_by_margin(bounds[tile] / float(p.scales));
}

HHRNET_END
