// Steps 5 and 6: merge both resolutions and both flip sides at half resolution (inference.py:85-146), copy
// the tags, keep the maximum of every cell of the merged heat, and notice values that no decoder accepts.
#pragma once

#include "bilinear.h"
#include "layout.h"
#include "thread_group.h"

HHRNET_BEGIN

// Rows of scratch that the group of one keeps while it goes down a joint.
struct AggregateRows {
    float *raised0, *raised1;      // two rows of coarse heat, resized to fine's width
    float *mirrored0, *mirrored1;  // the same for the mirrored image
    float *straight, *mirror;      // one merged row of either side
    float* line;                   // a float16 row, widened
    float* cell_rows;              // the maximum of kCell rows

    static size_t floats(int coarse_width, int fine_width) {
        return size_t(7) * fine_width + greatest(coarse_width, fine_width);
    }
    static AggregateRows at(float* memory, int fine_width) {
        AggregateRows rows;
        float** each[] = {&rows.raised0,  &rows.raised1, &rows.mirrored0, &rows.mirrored1,
                          &rows.straight, &rows.mirror,  &rows.cell_rows, &rows.line};
        for (float** row : each) {
            *row = memory;
            memory += fine_width;
        }
        return rows;
    }
};

// What aggregate writes for one joint.
struct AggregateOutput {
    float* heat;   // (fine_height, fine_width)
    float* cells;  // (cells_high, cells_wide)
    float* tags;   // (L, coarse_height, coarse_width), or nullptr where the tags of this scale are not used
};

HHRNET_HD bool unusable(float value) { return (bits_of(value) & 0x7fffffffu) > bits_of(kLargestValue); }

// ---------------------------------------------------------------------------------- one thread, row by row

inline const float* load_row(const Head& head, int channel, int y, int count, float* line) {
    const long offset = channel * head.channel_stride + y * head.row_stride;
    if (!head.half) return static_cast<const float*>(head.data) + offset;
    const uint16_t* from = static_cast<const uint16_t*>(head.data) + offset;
    for (int x = 0; x < count; ++x) line[x] = widen(from[x]);
    return line;
}

inline int has_unusable(const float* row, int count) {
    int32_t largest = 0;
    for (int x = 0; x < count; ++x) largest = greatest(largest, int32_t(bits_of(row[x]) & 0x7fffffffu));
    return largest > int32_t(bits_of(kLargestValue));
}

// One side of the merge while it goes down the rows.
class SideRows {
  public:
    SideRows(const ScaleHeads& in, const Head& coarse, const Head& fine, int channel, float* row0,
             float* row1, float* line)
        : in_(in),
          fine_(fine),
          channel_(channel),
          line_(line),
          rows_(in.coarse_height, in.fine_height),
          raised_(row0, row1, RaiseRow{in, coarse, channel, line}) {}

    int merge(int y, float* __restrict__ out) {
        const Source s = rows_.at(y);
        const float* __restrict__ upper = raised_.at(s.index0);
        const float* __restrict__ lower = raised_.at(s.index1);
        const float* __restrict__ fine = load_row(fine_, channel_, y, in_.fine_width, line_);
        const float w0 = s.weight0, w1 = s.weight1;
        for (int x = 0; x < in_.fine_width; ++x) out[x] = ((w0 * upper[x] + w1 * lower[x]) + fine[x]) * 0.5f;
        return has_unusable(fine, in_.fine_width);
    }

  private:
    // A coarse row of heat, resized to fine's width.
    struct RaiseRow {
        const ScaleHeads& in;
        const Head& coarse;
        int channel;
        float* line;

        void operator()(int row, float* out) const {
            const float* from = load_row(coarse, channel, row, in.coarse_width, line);
            project_row(Axis(in.coarse_width, in.fine_width), {from, 0}, 0, in.fine_width, out);
        }
    };

    const ScaleHeads& in_;
    const Head& fine_;
    int channel_;
    float* line_;
    Axis rows_;
    RollingRows<RaiseRow> raised_;
};

inline void reduce_cells(const float* rows, int width, float* cells) {
    const int whole = width / kCell;
    for (int cell = 0; cell < whole; ++cell) {
        const float* at = rows + cell * kCell;
        cells[cell] = greatest(greatest(at[0], at[1]), greatest(at[2], at[3]));
    }
    if (whole * kCell == width) return;
    float largest = rows[whole * kCell];
    for (int x = whole * kCell + 1; x < width; ++x) largest = greatest(largest, rows[x]);
    cells[whole] = largest;
}

// Checks the coarse rows of one channel and copies them to `out` (tags) unless that is nullptr.
inline int copy_rows(const Head& head, int channel, int width, int height, float* out, float* line) {
    int bad = 0;
    for (int y = 0; y < height; ++y) {
        const float* row = load_row(head, channel, y, width, line);
        bad |= has_unusable(row, width);
        if (out != nullptr) __builtin_memcpy(out + size_t(y) * width, row, sizeof(float) * width);
    }
    return bad;
}

inline int aggregate_rows(const ScaleHeads& in, int joint, int flipped_joint, const AggregateRows& rows,
                          const AggregateOutput& out) {
    const int width = in.fine_width, cells_wide = ceil_div(width, kCell);
    int bad = copy_rows(in.coarse, joint, in.coarse_width, in.coarse_height, nullptr, rows.line);
    bad |= copy_rows(in.coarse, in.joints + joint, in.coarse_width, in.coarse_height, out.tags, rows.line);
    SideRows straight(in, in.coarse, in.fine, joint, rows.raised0, rows.raised1, rows.line);
    SideRows mirrored(in, in.coarse_flipped, in.fine_flipped, flipped_joint, rows.mirrored0, rows.mirrored1,
                      rows.line);
    if (in.has_flip()) {
        float* tags = out.tags == nullptr ? nullptr : out.tags + size_t(in.coarse_width) * in.coarse_height;
        bad |= copy_rows(in.coarse_flipped, flipped_joint, in.coarse_width, in.coarse_height, nullptr,
                         rows.line);
        bad |= copy_rows(in.coarse_flipped, in.joints + flipped_joint, in.coarse_width, in.coarse_height,
                         tags, rows.line);
    }
    for (int y = 0; y < in.fine_height; ++y) {
        float* __restrict__ heat = out.heat + size_t(y) * width;
        if (in.has_flip()) {
            bad |= straight.merge(y, rows.straight) | mirrored.merge(y, rows.mirror);
            const float* __restrict__ a = rows.straight, * __restrict__ b = rows.mirror + width - 1;
            for (int x = 0; x < width; ++x) heat[x] = (a[x] + b[-x]) * 0.5f;
        } else {
            bad |= straight.merge(y, heat);
        }
        float* __restrict__ largest = rows.cell_rows;
        if (y % kCell == 0) {
            for (int x = 0; x < width; ++x) largest[x] = heat[x];
        } else {
            for (int x = 0; x < width; ++x) largest[x] = greatest(largest[x], heat[x]);
        }
        if (y % kCell == kCell - 1 || y == in.fine_height - 1)
            reduce_cells(largest, width, out.cells + size_t(y / kCell) * cells_wide);
    }
    return bad;
}

// ---------------------------------------------------------------------------------- many threads, pixel by
// pixel

HHRNET_HD float raised_at(const Head& coarse, int channel, const Source& row, const Source& column) {
    float upper = blend(column.weight0, coarse.at(channel, row.index0, column.index0), column.weight1,
                        coarse.at(channel, row.index0, column.index1));
    float lower = blend(column.weight0, coarse.at(channel, row.index1, column.index0), column.weight1,
                        coarse.at(channel, row.index1, column.index1));
    return blend(row.weight0, upper, row.weight1, lower);
}

HHRNET_HD float merged_side(const ScaleHeads& in, const Head& coarse, const Head& fine, int channel, int y,
                            int x, int* bad) {
    const Axis rows(in.coarse_height, in.fine_height), columns(in.coarse_width, in.fine_width);
    const Source row = rows.at(y), column = columns.at(x);
    // Where an axis keeps its size the second source is the first with weight 0, as in PyTorch.
    const float value = fine.at(channel, y, x);
    *bad |= unusable(value);
    return (raised_at(coarse, channel, row, column) + value) * 0.5f;
}

HHRNET_HD float merged_at(const ScaleHeads& in, int joint, int flipped_joint, int y, int x, int* bad) {
    const float straight = merged_side(in, in.coarse, in.fine, joint, y, x, bad);
    if (!in.has_flip()) return straight;
    const int mirror = in.fine_width - 1 - x;
    const float mirrored = merged_side(in, in.coarse_flipped, in.fine_flipped, flipped_joint, y, mirror, bad);
    return (straight + mirrored) * 0.5f;
}

template <class Group>
HHRNET_HD int copy_band(const Group& group, const Head& head, int channel, int width, int begin, int end,
                        float* out) {
    int bad = 0;
    for (int i = begin * width + group.rank(); i < end * width; i += group.size()) {
        const float value = head.at(channel, i / width, i % width);
        bad |= unusable(value);
        if (out != nullptr) out[i] = value;
    }
    return bad;
}

// Band `band` of `bands` of one joint: a range of cell rows, and the same share of the coarse rows.
template <class Group>
HHRNET_HD int aggregate_band(const Group& group, const ScaleHeads& in, int joint, int flipped_joint, int band,
                             int bands, const AggregateOutput& out) {
    const int width = in.fine_width, cells_wide = ceil_div(width, kCell),
              cells_high = ceil_div(in.fine_height, kCell);
    const int first = in.coarse_height * band / bands, last = in.coarse_height * (band + 1) / bands;
    int bad = copy_band(group, in.coarse, joint, in.coarse_width, first, last, static_cast<float*>(nullptr));
    bad |= copy_band(group, in.coarse, in.joints + joint, in.coarse_width, first, last, out.tags);
    if (in.has_flip()) {
        float* tags = out.tags == nullptr ? nullptr : out.tags + size_t(in.coarse_width) * in.coarse_height;
        bad |= copy_band(group, in.coarse_flipped, flipped_joint, in.coarse_width, first, last,
                         static_cast<float*>(nullptr));
        bad |= copy_band(group, in.coarse_flipped, in.joints + flipped_joint, in.coarse_width, first, last,
                         tags);
    }
    const int cell_begin = cells_high * band / bands, cell_end = cells_high * (band + 1) / bands;
    const int begin = cell_begin * kCell, end = least(cell_end * kCell, in.fine_height);
    for (int i = begin * width + group.rank(); i < end * width; i += group.size())
        out.heat[i] = merged_at(in, joint, flipped_joint, i / width, i % width, &bad);
    group.barrier();
    for (int i = cell_begin * cells_wide + group.rank(); i < cell_end * cells_wide; i += group.size()) {
        const int y0 = i / cells_wide * kCell, x0 = i % cells_wide * kCell;
        float largest = out.heat[y0 * width + x0];
        for (int y = y0; y < least(y0 + kCell, in.fine_height); ++y)
            for (int x = x0; x < least(x0 + kCell, width); ++x)
                largest = greatest(largest, out.heat[y * width + x]);
        out.cells[i] = largest;
    }
    return bad;
}

HHRNET_END
