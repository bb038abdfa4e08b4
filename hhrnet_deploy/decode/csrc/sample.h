// Step 7: the merged heat and tags at a pixel of the grid, interpolated where they are looked at. No map of
// the grid's size is ever made.
#pragma once

#include "bilinear.h"
#include "layout.h"
#include "thread_group.h"

HHRNET_BEGIN

HHRNET_HD float interpolate(const float* map, long row_stride, const Source& row, const Source& column) {
    const float *upper = map + row.index0 * row_stride, *lower = map + row.index1 * row_stride;
    return blend(
        row.weight0, blend(column.weight0, upper[column.index0], column.weight1, upper[column.index1]),
        row.weight1, blend(column.weight0, lower[column.index0], column.weight1, lower[column.index1]));
}

// The mean over scales of the heat of `joint` at (y, x) of the grid.
HHRNET_HD float sample_heat(const Projection& p, int joint, int y, int x) {
    float total = 0.0f;
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        const float value = interpolate(map.joint(joint), map.width, map.rows.at(y), map.columns.at(x));
        total = s == 0 ? value : total + value;
    }
    return p.scales == 1 ? total : total / float(p.scales);
}

// The same for N rows of one column, from an even y on. Rows beyond the grid hold anything.
template <int N>
HHRNET_HD void sample_heat_column(const Projection& p, int joint, int y, int x, float (&out)[N]) {
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        const Source column = map.columns.at(x);
        const float *left = map.joint(joint) + column.index0, *right = map.joint(joint) + column.index1;
        const auto line = [&](int row) {
            const int at = row * map.width;
            return blend(column.weight0, left[at], column.weight1, right[at]);
        };
        float value[N];
        resize_column<N>(map.rows, y, line, value);
        for (int i = 0; i < N; ++i) out[i] = s == 0 ? value[i] : out[i] + value[i];
    }
    for (int i = 0; i < N && p.scales > 1; ++i) out[i] = out[i] / float(p.scales);
}

// A tag is interpolated twice: coarse to fine, in the mirrored image's own frame for side 1, then fine to the
// grid. What all dimensions share:
struct TagPlace {
    Source row, column;   // of the grid's pixel, in fine
    Source upper, lower;  // of its rows, in coarse

    HHRNET_HD TagPlace(const TagMaps& t, int y, int x)
        : row(t.grid_rows.at(y)),
          column(t.grid_columns.at(x)),
          upper(t.fine_rows.at(row.index0)),
          lower(t.fine_rows.at(row.index1)) {}
};

HHRNET_HD float sample_tag(const TagMaps& t, int joint, int dim, const TagPlace& at) {
    const TagSide side = t.of(dim);
    const float* map = side.joint(joint);
    const int last = t.fine_width - 1;
    const Source left = t.fine_columns.at(dim == 0 ? at.column.index0 : last - at.column.index0);
    const Source right = t.fine_columns.at(dim == 0 ? at.column.index1 : last - at.column.index1);
    const long stride = side.row_stride;
    return blend(at.row.weight0,
                 blend(at.column.weight0, interpolate(map, stride, at.upper, left), at.column.weight1,
                       interpolate(map, stride, at.upper, right)),
                 at.row.weight1,
                 blend(at.column.weight0, interpolate(map, stride, at.lower, left), at.column.weight1,
                       interpolate(map, stride, at.lower, right)));
}

constexpr int kStrip = 4;  // rows of a column that a thread of a team samples at once

// The same of a whole strip, from row y on. Rows beyond the grid hold anything.
HHRNET_HD void sample_tag_column(const TagMaps& t, int joint, int dim, int y, int x, float (&out)[kStrip]) {
    if (!(t.grid_rows.doubles() && t.fine_rows.doubles() && y % 4 == 0)) {
        HHRNET_ROLLED
        for (int i = 0; i < kStrip; ++i) {  // moved up one by one: an index would put them into slow memory
            for (int up = 0; up < kStrip - 1; ++up) out[up] = out[up + 1];
            out[kStrip - 1] = sample_tag(t, joint, dim, TagPlace(t, least(y + i, t.grid_rows.target - 1), x));
        }
        return;
    }
    const TagSide side = t.of(dim);
    const float* map = side.joint(joint);
    const Source column = t.grid_columns.at(x);
    const int last = t.fine_width - 1, first_row = y / 2 - 1;  // of fine; four rows from there
    const Source left = t.fine_columns.at(dim == 0 ? column.index0 : last - column.index0);
    const Source right = t.fine_columns.at(dim == 0 ? column.index1 : last - column.index1);
    float above[2], here[2], below[2];  // three rows of coarse, in both columns of fine
    const auto line = [&](int row, float (&to)[2]) {
        const float* values = map + clamped(row, 0, t.fine_rows.source - 1) * side.row_stride;
        to[0] = blend(left.weight0, values[left.index0], left.weight1, values[left.index1]);
        to[1] = blend(right.weight0, values[right.index0], right.weight1, values[right.index1]);
    };
    line(y / 4 - 1, above);
    line(y / 4, here);
    line(y / 4 + 1, below);
    const auto between = [&](float weight0, const float (&a)[2], float weight1, const float (&b)[2]) {
        return blend(column.weight0, blend(weight0, a[0], weight1, b[0]), column.weight1,
                     blend(weight0, a[1], weight1, b[1]));
    };
    float fine[kStrip];
    fine[0] = between(0.75f, above, 0.25f, here);
    fine[1] = y == 0 ? between(1.0f, here, 0.0f, below) : between(0.25f, above, 0.75f, here);
    fine[2] = between(0.75f, here, 0.25f, below);
    fine[3] = between(0.25f, here, 0.75f, below);
    const auto fine_row = [&](int row) {
        const int i = row - first_row;
        return i == 0 ? fine[0] : i == 1 ? fine[1] : i == 2 ? fine[2] : fine[3];
    };
    resize_column<kStrip>(t.grid_rows, y, fine_row, out);
}

constexpr int kPatch = kTile + 2 * kMaxReach;

// out = (add ? out : 0) + weight0*upper + weight1*lower, one row of a patch.
inline void blend_rows(const Source& row, const float* __restrict__ upper, const float* __restrict__ lower,
                       int width, bool add, float* __restrict__ out) {
    const float w0 = row.weight0, w1 = row.weight1;
    if (add) {
        for (int x = 0; x < width; ++x) out[x] = out[x] + (w0 * upper[x] + w1 * lower[x]);
    } else {
        for (int x = 0; x < width; ++x) out[x] = w0 * upper[x] + w1 * lower[x];
    }
}

// Part of the grid: height x width pixels at (y0, x0), all inside, at most kPatch wide.
struct PatchArea {
    int y0, x0, height, width;
};

// An area that begins in an even row, as strips for the threads of a team.
struct Strips {
    PatchArea area;
    int count;

    HHRNET_HD explicit Strips(const PatchArea& whole)
        : area(whole), count(ceil_div(whole.height, kStrip) * whole.width) {}
    // Where a strip begins, from the area's corner.
    HHRNET_HD int y(int index) const { return index / area.width * kStrip; }
    HHRNET_HD int x(int index) const { return index % area.width; }
};

// The heat of a patch, by one thread; rows of the patch are kPatch apart.
inline void fill_patch(const Projection& p, int joint, const PatchArea& area, float* patch) {
    float memory[2][kPatch];
    for (int s = 0; s < p.scales; ++s) {
        const HeatMap& map = p.scale[s];
        const float* heat = map.joint(joint);
        const Axis &rows = map.rows, &columns = map.columns;
        RollingRows projected(memory[0], memory[1], [&](int row, float* out) {
            project_row(columns, {heat + size_t(row) * map.width, 0}, area.x0, area.width, out);
        });
        for (int y = 0; y < area.height; ++y) {
            const Source row = rows.at(area.y0 + y);
            const float* upper = projected.at(row.index0);
            blend_rows(row, upper, projected.at(row.index1), area.width, s > 0, patch + y * kPatch);
        }
    }
    if (p.scales == 1) return;
    const float count = float(p.scales);
    for (int y = 0; y < area.height; ++y)
        for (int x = 0; x < area.width; ++x) patch[y * kPatch + x] = patch[y * kPatch + x] / count;
}

constexpr int kFinePart = 2 * kTile + 2;  // columns of fine that are worth resizing for one tile

// The tags of a patch at most kTile wide, by one thread; false where the grid is so much smaller than fine
// that pixels are better sampled one by one.
inline bool fill_tag_patch(const TagMaps& t, int joint, int dim, const PatchArea& area, float* patch) {
    const int first = t.grid_columns.at(area.x0).index0;
    const int count = t.grid_columns.at(area.x0 + area.width - 1).index1 + 1 - first;
    if (count > kFinePart) return false;
    const float* map = t.side[dim].joint(joint);
    float raised_memory[2][kFinePart], fine[kFinePart], projected_memory[2][kTile];
    const int mirrored_first = t.fine_width - first - count;
    RollingRows raised(raised_memory[0], raised_memory[1], [&](int row, float* out) {
        const RowPart from = {map + row * t.side[dim].row_stride, 0};
        project_row(t.fine_columns, from, dim == 0 ? first : mirrored_first, count, out);
    });
    RollingRows projected(projected_memory[0], projected_memory[1], [&](int row, float* out) {
        const Source source = t.fine_rows.at(row);
        const float* upper = raised.at(source.index0);
        blend_rows(source, upper, raised.at(source.index1), count, false, fine);
        for (int x = 0; dim == 1 && x < count / 2; ++x) {
            const float swapped = fine[x];
            fine[x] = fine[count - 1 - x];
            fine[count - 1 - x] = swapped;
        }
        project_row(t.grid_columns, {fine, first}, area.x0, area.width, out);
    });
    for (int y = 0; y < area.height; ++y) {
        const Source row = t.grid_rows.at(area.y0 + y);
        const float* upper = projected.at(row.index0);
        blend_rows(row, upper, projected.at(row.index1), area.width, false, patch + y * kPatch);
    }
    return true;
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

HHRNET_END
