// Bilinear interpolation with the bits of PyTorch's NCHW path (align_corners=False; ATen/native/UpSample.h):
// hy0*(wx0*a + wx1*b) + hy1*(wx0*c + wx1*d), float32, nothing fused.
#pragma once

#include "platform.h"

HHRNET_BEGIN

// Where one target index looks along one axis.
struct Source {
    int index0, index1;
    float weight0, weight1;
};

struct Axis {
    int source, target;
    float scale;

    HHRNET_HD Axis() : Axis(1, 1) {}
    HHRNET_HD Axis(int source_size, int target_size)
        : source(source_size), target(target_size), scale(float(source_size) / float(target_size)) {}

    HHRNET_HD bool same() const { return source == target; }
    HHRNET_HD bool doubles() const { return target == 2 * source; }

    HHRNET_HD Source at(int index) const {
        if (same()) return {index, index, 1.0f, 0.0f};
        float position = scale * (float(index) + 0.5f) - 0.5f;
        position = position < 0.0f ? 0.0f : position;
        int first = least(int(position), source - 1);
        float weight = clamped(position - float(first), 0.0f, 1.0f);
        return {first, first + (first < source - 1), 1.0f - weight, weight};
    }
};

HHRNET_HD float blend(float weight0, float a, float weight1, float b) { return weight0 * a + weight1 * b; }

// N rows of one column, from an even `y` on: `line(row)` is the column's value in a row of the source. Rows
// beyond the last hold anything.
template <int N, class Line>
HHRNET_HD void resize_column(const Axis& rows, int y, const Line& line, float (&out)[N]) {
    static_assert(N % 2 == 0, "exact doubling goes by pairs of rows");
    if (rows.doubles()) {
        float lines[N / 2 + 2];
        const int middle = y / 2;
        for (int i = 0; i < N / 2 + 2; ++i) lines[i] = line(clamped(middle - 1 + i, 0, rows.source - 1));
        for (int i = 0; i < N; i += 2) {
            out[i] = blend(0.25f, lines[i / 2], 0.75f, lines[i / 2 + 1]);
            out[i + 1] = blend(0.75f, lines[i / 2 + 1], 0.25f, lines[i / 2 + 2]);
        }
        if (middle == 0) out[0] = blend(1.0f, lines[1], 0.0f, lines[2]);  // it reads rows 0 and 1
    } else {
        for (int i = 0; i < N; ++i) {
            const Source row = rows.at(least(y + i, rows.target - 1));
            out[i] = blend(row.weight0, line(row.index0), row.weight1, line(row.index1));
        }
    }
}

// Part of a row: `values[0]` is the row's value at `origin`.
struct RowPart {
    const float* values;
    int origin;

    HHRNET_HD float operator[](int x) const { return values[x - origin]; }
};

// Values x0 .. x0+count-1 of a row of `axis.source` values resized to `axis.target`.
inline void resize_row(const Axis& axis, const RowPart& row, int x0, int count, float* out) {
    for (int i = 0; i < count; ++i) {
        const Source s = axis.at(x0 + i);
        out[i] = blend(s.weight0, row[s.index0], s.weight1, row[s.index1]);
    }
}

// The same for exact doubling, where the weights alternate and no index has to be looked up.
inline void double_row(const Axis& axis, const RowPart& row, int x0, int count, float* __restrict__ out) {
    int x = x0;
    const int end = x0 + count;
    for (; x < end && x % 2 == 0; ++x) resize_row(axis, row, x, 1, out + (x - x0));
    const int first = x / 2;
    const int pairs = greatest(0, least((end - x) / 2, axis.source - 1 - first));
    const float* __restrict__ from = row.values + (first - row.origin);
    float* __restrict__ to = out + (x - x0);
    for (int i = 0; i < pairs; ++i) {
        const float a = from[i], b = from[i + 1];
        to[2 * i] = 0.75f * a + 0.25f * b;
        to[2 * i + 1] = 0.25f * a + 0.75f * b;
    }
    x += 2 * pairs;
    if (x < end) resize_row(axis, row, x, end - x, out + (x - x0));
}

inline void project_row(const Axis& axis, const RowPart& row, int x0, int count, float* out) {
    if (axis.same()) {
        for (int i = 0; i < count; ++i) out[i] = row[x0 + i];
    } else if (axis.doubles()) {
        double_row(axis, row, x0, count, out);
    } else {
        resize_row(axis, row, x0, count, out);
    }
}

// Two rows, resized along x, that a walk down the rows of a map keeps: each new row takes the place of the
// upper one.
template <class Fill>
class RollingRows {
  public:
    RollingRows(float* row0, float* row1, const Fill& fill) : rows_{row0, row1}, fill_(fill) {}

    const float* at(int row) {
        for (int slot = 0; slot < 2; ++slot)
            if (held_[slot] == row) return rows_[slot];
        const int slot = held_[0] <= held_[1] ? 0 : 1;
        held_[slot] = row;
        fill_(row, rows_[slot]);
        return rows_[slot];
    }

  private:
    float* rows_[2];
    int held_[2] = {-1, -1};
    Fill fill_;
};

HHRNET_END
