// Which tiles of the grid can matter: bounds of the projected heat and tags from the maps they are interpolated from.
//
// A bilinear value stays within its sources up to rounding; the margin below is eight times what four roundings, the
// sum over scales and the division can add.
#pragma once

#include "sample.h"

HHRNET_BEGIN

constexpr float kMargin = 0x1p-20f;

struct Span {
    int begin, end;  // end is exclusive
};

// The grid pixels of tile `index` along an axis of `size` pixels.
HHRNET_HD Span tile_span(int index, int size) {
    return {index * kTile, least((index + 1) * kTile, size)};
}

// The sources that the targets of `span` are interpolated from.
HHRNET_HD Span source_span(const Axis& axis, const Span& span) {
    return {axis.at(span.begin).index0, axis.at(span.end - 1).index1 + 1};
}

HHRNET_HD Span cell_span(const Span& span) { return {span.begin / kCell, ceil_div(span.end, kCell)}; }

// The mirrored image's columns for the columns `span` of an axis of `size` values.
HHRNET_HD Span mirrored_span(const Span& span, int size) { return {size - span.end, size - span.begin}; }

HHRNET_HD float raised_by_margin(float value) { return value + (value < 0.0f ? -value : value) * kMargin; }

// No heat of `joint` in the tile is larger.
HHRNET_HD float heat_bound(const Projection& p, int joint, int tile) {
    const int row = tile / p.tiles_wide(), column = tile % p.tiles_wide();
    float total = 0.0f;
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        const Span rows = cell_span(source_span(Axis(map.height, p.height), tile_span(row, p.height)));
        const Span columns = cell_span(source_span(Axis(map.width, p.width), tile_span(column, p.width)));
        const float* cells = map.joint_cells(joint);
        const int wide = map.cells_wide();
        float largest = cells[rows.begin * wide + columns.begin];
        for (int y = rows.begin; y < rows.end; ++y)
            for (int x = columns.begin; x < columns.end; ++x) largest = greatest(largest, cells[y * wide + x]);
        total += raised_by_margin(largest);
    }
    return p.scales == 1 ? total : raised_by_margin(total / float(p.scales));
}

// The coarse rows (or columns) that the tags of a tile are interpolated from.
HHRNET_HD Span tag_span(int coarse, int fine, int grid, int tile, bool mirrored) {
    Span span = source_span(Axis(fine, grid), tile_span(tile, grid));
    if (mirrored) span = mirrored_span(span, fine);
    return source_span(Axis(coarse, fine), span);
}

HHRNET_END
