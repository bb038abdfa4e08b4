// Shapes, limits and views of the buffers that the steps share.
#pragma once

#include "bilinear.h"
#include "half.h"
#include "interface.h"
#include "platform.h"

HHRNET_BEGIN

constexpr int kCell = 4;       // side of a cell whose maximum is kept, in pixels of a merged map
constexpr int kTile = 16;      // side of a tile that is searched or skipped as a whole, in pixels of the grid
constexpr int kMaxReach = 15;  // half of the largest peak window (31)
constexpr float kLargestValue = 1e12f;

struct Span {
    int begin, end;  // end is exclusive
};

// One (C, H, W) output of the network for one image.
struct Head : HeadData {
    HHRNET_HD Head(const HeadData& data) : HeadData(data) {}
};

// Value by value: nvcc would keep both in slow memory to choose one by its address.
HHRNET_HD Head either(bool first, const Head& a, const Head& b) {
    return Head({first ? a.data : b.data, first ? a.channel_stride : b.channel_stride,
                 first ? a.row_stride : b.row_stride, first ? a.half : b.half});
}

// One channel of it; T is float or, for float16, uint16_t.
template <class T>
struct Plane {
    const T* data;
    int row_stride;

    HHRNET_HD Plane(const Head& head, int channel)
        : data(static_cast<const T*>(head.data) + channel * head.channel_stride),
          row_stride(int(head.row_stride)) {}

    HHRNET_HD float at(int y, int x) const { return widened(data[y * row_stride + x]); }
};

// The network's outputs for one image at one scale.
struct ScaleHeads {
    Head coarse, fine, coarse_flipped, fine_flipped;
    int coarse_width, coarse_height, fine_width, fine_height;
    int joints;

    HHRNET_HD bool has_flip() const { return fine_flipped.data != nullptr; }
};

// The merged heat of one scale for one image: (K, height, width), and the maxima of its cells.
struct HeatMap {
    const float* heat;
    const float* cells;
    int width, height;
    Axis rows, columns;  // to the grid

    HHRNET_HD int cells_wide() const { return ceil_div(width, kCell); }
    HHRNET_HD int cells_high() const { return ceil_div(height, kCell); }
    HHRNET_HD const float* joint(int k) const { return heat + size_t(k) * width * height; }
    HHRNET_HD const float* joint_cells(int k) const {
        return cells + size_t(k) * cells_wide() * cells_high();
    }
};

// The coarse tags of one image, one side per dimension: side 1 is the mirrored image's, still mirrored.
struct TagSide {
    const float* data;
    long channel_stride, row_stride;
    const int* channel;  // the channel of each joint; nullptr: its number

    HHRNET_HD const float* joint(int k) const {
        return data + (channel == nullptr ? k : channel[k]) * channel_stride;
    }
};

struct TagMaps {
    TagSide side[kMaxTagDims];
    int dims;
    int coarse_width, coarse_height, fine_width, fine_height;
    Axis fine_rows, fine_columns;  // from coarse to fine
    Axis grid_rows, grid_columns;  // from fine to the grid

    HHRNET_HD void fit(int grid_width, int grid_height) {
        fine_rows = Axis(coarse_height, fine_height);
        fine_columns = Axis(coarse_width, fine_width);
        grid_rows = Axis(fine_height, grid_height);
        grid_columns = Axis(fine_width, grid_width);
    }

    // Without an index that only the running program knows: nvcc would keep the array in slow memory.
    HHRNET_HD TagSide of(int dim) const { return dim == 0 ? side[0] : side[1]; }
};

// Tags as aggregate copies them: (K, L, coarse_height, coarse_width), channels already exchanged by the flip
// pairs.
HHRNET_HD TagSide copied_side(const float* tags, int dim, int dims, int coarse_width, int coarse_height) {
    const long area = long(coarse_width) * coarse_height;
    return {tags + dim * area, dims * area, coarse_width, nullptr};
}

// The heat of every scale and the grid on which people are found.
struct Projection {
    HeatMap scale[kMaxScales];
    int scales;
    int width, height;

    HHRNET_HD int tiles_wide() const { return ceil_div(width, kTile); }
    HHRNET_HD int tiles_high() const { return ceil_div(height, kTile); }
    HHRNET_HD int tiles() const { return tiles_wide() * tiles_high(); }
};

// The candidates of one image: (K, M) each, best first; `tag` is (K, M, L). Unused places hold value 0.
struct Candidates {
    float* value;
    int* index;
    float* tag;
};

// The people of one image, M*K places.
struct PeopleBuffers {
    float* keypoints;    // (M*K, K, 3)
    float* scores;       // (M*K)
    float* joint_tags;   // (M*K, K, L)
    float* person_tags;  // (M*K, L), for refine
    int* count;          // 1
};

HHRNET_END
