// Plain data that crosses between the binding and the decoder of each instruction set: no functions here,
// because these types are shared by objects compiled with different flags.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hhrnet {

constexpr int kMaxJoints = 64;
constexpr int kMaxCandidates = 100;
constexpr int kMaxScales = 8;
constexpr int kMaxTagDims = 2;

// One (C, H, W) output of the network for one image; values along x are adjacent, strides count values.
struct HeadData {
    const void* data;  // nullptr: absent
    long channel_stride, row_stride;
    int half;  // float16
};

struct ScaleData {
    HeadData coarse, fine, coarse_flipped, fine_flipped;
    int coarse_width, coarse_height, fine_width, fine_height;
};

// DecodeConfig, as the steps read it.
struct Settings {
    float detection_threshold;  // the largest float32 not above the configured one: the same comparisons in
                                // float32
    double tag_threshold;
    int nms_kernel;
    int max_people;  // M
    int adjust, refine, use_detection_val, ignore_too_much;
};

// One image to decode; scales are ordered as they are summed.
struct ImageRequest {
    ScaleData scale[kMaxScales];
    int scales, tag_scale;
    int joints, dims;   // K, L
    int width, height;  // the grid
    const int* flip_index;
    const int* order;
    Settings settings;
};

// Views into the workspace: (count, K, 3), (count), (count, K, L). `unusable`: a head holds NaN, an infinity
// or a value beyond 1e12, and there are no people.
struct ImageResult {
    const float *keypoints, *scores, *joint_tags;
    int count;
    int unusable;
};

// A (height, width, 3) uint8 image and its forward matrix to the (target_height, target_width, 3) image
// `out`.
struct WarpRequest {
    const uint8_t* pixels;
    int width, height;
    long row_stride;
    double forward[6];
    int target_width, target_height;
    uint8_t* out;
};

// The decoder of one instruction set.
struct Decoder {
    const char* name;
    // How many bytes of workspace, aligned to 64, one image needs.
    size_t (*workspace)(const ImageRequest&);
    ImageResult (*decode)(const ImageRequest&, void* workspace);
    void (*warp)(const WarpRequest&);
};

}  // namespace hhrnet
