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

constexpr int kPair = 2;  // rows of fine that a thread merges at once

// What the columns of a pair of rows share.
struct RowPair {
    Axis rows, columns;  // from coarse to fine
    int y, end;          // the first row, and that of fine's end
};

// One column of one side of a pair, merged; whether a value of fine is unusable.
template <class T>
HHRNET_HD int merge_side(const RowPair& pair, const Head& coarse, const Head& fine, int channel, int x,
                         float (&merged)[kPair]) {
    const Plane<T> values(fine, channel), low(coarse, channel);
    float value[kPair];
    int bad = 0;
    for (int i = 0; i < kPair; ++i) value[i] = values.at(least(pair.y + i, pair.end - 1), x);
    const Source column = pair.columns.at(x);
    const auto line = [&](int row) {
        return blend(column.weight0, low.at(row, column.index0), column.weight1, low.at(row, column.index1));
    };
    resize_column<kPair>(pair.rows, pair.y, line, merged);
    for (int i = 0; i < kPair; ++i) {
        bad |= unusable(value[i]);
        merged[i] = (merged[i] + value[i]) * 0.5f;
    }
    return bad;
}

// One column of a cell row: writes the merged heat and returns its maximum.
template <class T>
HHRNET_HD float merge_column(const ScaleHeads& in, const Axis& rows, const Axis& columns, const Span& part,
                             int joint, int flipped_joint, int x, float* heat, int* bad) {
    float largest = float_of(0xff800000u);  // -infinity
    HHRNET_ROLLED                           // all rows at once take too many registers
        for (int y = part.begin; y < part.end; y += kPair) {
        const RowPair pair = {rows, columns, y, part.end};
        float merged[kPair];
        *bad |= merge_side<T>(pair, in.coarse, in.fine, joint, x, merged);
        if (in.has_flip()) {
            float mirrored[kPair];
            *bad |= merge_side<T>(pair, in.coarse_flipped, in.fine_flipped, flipped_joint,
                                  in.fine_width - 1 - x, mirrored);
            for (int i = 0; i < kPair; ++i) merged[i] = (merged[i] + mirrored[i]) * 0.5f;
        }
        for (int i = 0; i < kPair; ++i) {
            if (y + i >= part.end) break;
            heat[(y + i) * in.fine_width + x] = merged[i];
            largest = greatest(largest, merged[i]);
        }
    }
    return largest;
}

// Checks a row of a channel and copies it to `out` (tags) unless that is nullptr.
template <class T, class Team>
HHRNET_HD int copy_row(const Team& team, const Plane<T>& plane, int y, int width, float* out) {
    int bad = 0;
    for (int x = team.rank(); x < width; x += team.size()) {
        const float value = plane.at(y, x);
        bad |= unusable(value);
        if (out != nullptr) out[y * width + x] = value;
    }
    return bad;
}

// Checks the coarse rows of a band and copies those that are tags, a row of a channel for each team.
template <class T, class Group>
HHRNET_HD int copy_coarse(const Group& group, const ScaleHeads& in, int joint, int flipped_joint,
                          const Span& rows, float* tags) {
    const auto team = group.team();
    const int kinds = in.has_flip() ? 4 : 2, count = rows.end - rows.begin;
    float* mirrored_tags = tags == nullptr ? nullptr : tags + size_t(in.coarse_width) * in.coarse_height;
    int bad = 0;
    for (int i = team.index(); i < kinds * count; i += team.count()) {
        const int kind = i / count,
                  row = rows.begin + i % count;  // heat, tags; the same of the mirrored image
        const Head head = either(kind < 2, in.coarse, in.coarse_flipped);
        float* out = kind % 2 == 0 ? nullptr : kind == 1 ? tags : mirrored_tags;
        const Plane<T> plane(head, kind % 2 * in.joints + (kind < 2 ? joint : flipped_joint));
        bad |= copy_row(team, plane, row, in.coarse_width, out);
    }
    return bad;
}

// Band `band` of `bands` of one joint: a range of cell rows, and the same share of the coarse rows. T is the
// type of the heads.
template <class T, class Group>
HHRNET_HD int aggregate_typed(const Group& group, const ScaleHeads& in, int joint, int flipped_joint,
                              int band, int bands, const AggregateOutput& out) {
    const int width = in.fine_width, cells_wide = ceil_div(width, kCell),
              cells_high = ceil_div(in.fine_height, kCell);
    const Span coarse = {in.coarse_height * band / bands, in.coarse_height * (band + 1) / bands};
    int bad = copy_coarse<T>(group, in, joint, flipped_joint, coarse, out.tags);
    const int cell_begin = cells_high * band / bands, cell_end = cells_high * (band + 1) / bands;
    const auto team = group.team();
    // A team takes whole cells: a column for each thread, or a cell where there are fewer threads.
    const int columns = team.size() < kCell ? kCell : 1, chunk = team.size() * columns,
              chunks = ceil_div(width, chunk);
    const Axis to_rows(in.coarse_height, in.fine_height), to_columns(in.coarse_width, width);
    for (int task = team.index(); task < (cell_end - cell_begin) * chunks; task += team.count()) {
        const int row = cell_begin + task / chunks, x0 = task % chunks * chunk + team.rank() * columns;
        const Span part = {row * kCell, least(row * kCell + kCell, in.fine_height)};
        float largest = float_of(0xff800000u);  // -infinity
        for (int x = x0; x < least(x0 + columns, width); ++x)
            largest = greatest(largest, merge_column<T>(in, to_rows, to_columns, part, joint, flipped_joint,
                                                        x, out.heat, &bad));
        for (int mask = 1; columns == 1 && mask < kCell; mask *= 2)
            largest = greatest(largest, team.exchange(largest, mask));
        if (x0 < width && x0 % kCell == 0) out.cells[row * cells_wide + x0 / kCell] = largest;
    }
    return bad;
}

template <class Group>
HHRNET_HD int aggregate_band(const Group& group, const ScaleHeads& in, int joint, int flipped_joint, int band,
                             int bands, const AggregateOutput& out) {
    return in.fine.half ? aggregate_typed<uint16_t>(group, in, joint, flipped_joint, band, bands, out)
                        : aggregate_typed<float>(group, in, joint, flipped_joint, band, bands, out);
}

HHRNET_END
