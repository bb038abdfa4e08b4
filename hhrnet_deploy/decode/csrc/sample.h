// Step 7: the merged heat and tags at a pixel of the grid, interpolated where they are looked at. No map of the grid's
// size is ever made.
#pragma once

#include "bilinear.h"
#include "layout.h"
#include "thread_group.h"

HHRNET_BEGIN

HHRNET_HD float interpolate(const float* map, int width, const Source& row, const Source& column) {
    const float *upper = map + size_t(row.index0) * width, *lower = map + size_t(row.index1) * width;
    return blend(row.weight0, blend(column.weight0, upper[column.index0], column.weight1, upper[column.index1]),
                 row.weight1, blend(column.weight0, lower[column.index0], column.weight1, lower[column.index1]));
}

// The mean over scales of the heat of `joint` at (y, x) of the grid.
HHRNET_HD float sample_heat(const Projection& p, int joint, int y, int x) {
    float total = 0.0f;
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        const Axis rows(map.height, p.height), columns(map.width, p.width);
        const float value = interpolate(map.joint(joint), map.width, rows.at(y), columns.at(x));
        total = s == 0 ? value : total + value;
    }
    return p.scales == 1 ? total : total / float(p.scales);
}

// A tag is interpolated twice: coarse to fine, in the mirrored image's own frame for side 1, then fine to the grid.
HHRNET_HD float sample_tag(const TagMaps& t, int joint, int dim, int grid_width, int grid_height, int y, int x) {
    const float* map = t.side(joint, dim);
    const Axis to_fine_rows(t.coarse_height, t.fine_height), to_fine_columns(t.coarse_width, t.fine_width);
    const Source row = Axis(t.fine_height, grid_height).at(y), column = Axis(t.fine_width, grid_width).at(x);
    const Source upper = to_fine_rows.at(row.index0), lower = to_fine_rows.at(row.index1);
    const int last = t.fine_width - 1;
    const Source left = to_fine_columns.at(dim == 0 ? column.index0 : last - column.index0);
    const Source right = to_fine_columns.at(dim == 0 ? column.index1 : last - column.index1);
    const int width = t.coarse_width;
    return blend(row.weight0,
                 blend(column.weight0, interpolate(map, width, upper, left), column.weight1,
                       interpolate(map, width, upper, right)),
                 row.weight1,
                 blend(column.weight0, interpolate(map, width, lower, left), column.weight1,
                       interpolate(map, width, lower, right)));
}

constexpr int kPatch = kTile + 2 * kMaxReach;

// Fills a patch of the grid (height x width values at y0, x0, all inside) by one thread, two resized rows at a time.
inline void fill_patch(const Projection& p, int joint, int y0, int x0, int height, int width, float* patch) {
    float memory[2][kPatch];
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        const float* heat = map.joint(joint);
        const Axis rows(map.height, p.height), columns(map.width, p.width);
        int held[2] = {-1, -1};
        auto resized = [&](int row) -> const float* {
            const float* from = heat + size_t(row) * map.width;
            if (columns.same()) return from + x0;
            for (int slot = 0; slot < 2; ++slot)
                if (held[slot] == row) return memory[slot];
            const int slot = held[0] <= held[1] ? 0 : 1;
            held[slot] = row;
            project_row(columns, from, x0, width, memory[slot]);
            return memory[slot];
        };
        for (int y = 0; y < height; ++y) {
            const Source row = rows.at(y0 + y);
            const float* __restrict__ upper = resized(row.index0);
            const float* __restrict__ lower = row.index1 == row.index0 ? upper : resized(row.index1);
            float* __restrict__ out = patch + y * kPatch;
            const float w0 = row.weight0, w1 = row.weight1;
            if (s == 0) {
                for (int x = 0; x < width; ++x) out[x] = w0 * upper[x] + w1 * lower[x];
            } else {
                for (int x = 0; x < width; ++x) out[x] = out[x] + (w0 * upper[x] + w1 * lower[x]);
            }
        }
    }
    if (p.scales == 1) return;
    const float count = float(p.scales);
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) patch[y * kPatch + x] = patch[y * kPatch + x] / count;
}

// The largest value of a patch at most kTile wide.
inline float patch_maximum(const float* patch, int height, int width) {
    float columns[kTile];
    for (int x = 0; x < kTile; ++x) columns[x] = patch[least(x, width - 1)];
    for (int y = 1; y < height; ++y)
        for (int x = 0; x < width; ++x) columns[x] = greatest(columns[x], patch[y * kPatch + x]);
    float largest = columns[0];
    for (int x = 1; x < kTile; ++x) largest = greatest(largest, columns[x]);
    return largest;
}

// fill_patch by a group; the caller puts the barrier.
template <class Group>
HHRNET_HD void fill_patch(const Group& group, const Projection& p, int joint, int y0, int x0, int height, int width,
                          float* patch) {
    if constexpr (Group::single) {
        fill_patch(p, joint, y0, x0, height, width, patch);
    } else {
        for (int i = group.rank(); i < height * width; i += group.size())
            patch[i / width * kPatch + i % width] = sample_heat(p, joint, y0 + i / width, x0 + i % width);
    }
}

HHRNET_END
