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

// Values x0 .. x0+count-1 of a row of `axis.source` values resized to `axis.target`.
inline void resize_row(const Axis& axis, const float* row, int x0, int count, float* out) {
    for (int i = 0; i < count; ++i) {
        Source s = axis.at(x0 + i);
        out[i] = blend(s.weight0, row[s.index0], s.weight1, row[s.index1]);
    }
}

// The same for exact doubling, where the weights alternate and no index has to be looked up.
inline void double_row(const float* __restrict__ row, int source, int x0, int count, float* __restrict__ out) {
    int x = x0;
    const int end = x0 + count;
    auto edge = [&](int at) {
        Source s = Axis(source, 2 * source).at(at);
        return blend(s.weight0, row[s.index0], s.weight1, row[s.index1]);
    };
    while (x < end && (x == 0 || x % 2 == 0)) {
        out[x - x0] = edge(x);
        ++x;
    }
    const int first = x / 2;
    const int pairs = greatest(0, least((end - x) / 2, source - 1 - first));
    const float* __restrict__ from = row + first;
    float* __restrict__ to = out + (x - x0);
    for (int i = 0; i < pairs; ++i) {
        float a = from[i], b = from[i + 1];
        to[2 * i] = 0.75f * a + 0.25f * b;
        to[2 * i + 1] = 0.25f * a + 0.75f * b;
    }
    for (x += 2 * pairs; x < end; ++x) out[x - x0] = edge(x);
}

inline void project_row(const Axis& axis, const float* row, int x0, int count, float* out) {
    if (axis.doubles()) {
        double_row(row, axis.source, x0, count, out);
    } else {
        resize_row(axis, row, x0, count, out);
    }
}

HHRNET_END
