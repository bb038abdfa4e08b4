// Step 3: the affine warp of a uint8 image with the pixels of OpenCV 4 (cv2.warpAffine, INTER_LINEAR, black
// border): source positions in fixed point with 10 bits, rounded to 1/32 pixel, weights with 15 bits
// (imgwarp.cpp of OpenCV 4).
#pragma once

#include "platform.h"
#include "thread_group.h"

HHRNET_BEGIN

constexpr int kWarpChannels = 3;

struct WarpImage {
    const uint8_t* pixels;  // (height, width, 3)
    int width, height;
    long row_stride;  // in bytes
};

// From target to source: x = m[0]*u + m[1]*v + m[2], y = m[3]*u + m[4]*v + m[5].
struct InverseAffine {
    double m[6];
};

// The inverse of a forward matrix, operation by operation as cv::warpAffine inverts it.
HHRNET_HD InverseAffine inverse_of(const double* forward) {
    double determinant = forward[0] * forward[4] - forward[1] * forward[3];
    determinant = determinant != 0.0 ? 1.0 / determinant : 0.0;
    const double a = forward[4] * determinant, d = forward[0] * determinant;
    const double b = forward[1] * -determinant, c = forward[3] * -determinant;
    return {{a, b, -a * forward[2] - b * forward[5], c, d, -c * forward[2] - d * forward[5]}};
}

HHRNET_HD int round_to_int(double value) { return int(clamped(rint(value), -2147483648.0, 2147483647.0)); }

// One coordinate of the source position of target (u, v), in 1/32 pixel.
HHRNET_HD int source_position(const double* row, int u, int v) {
    constexpr double kScale = 1024.0;
    constexpr int kHalfStep = 16;
    const int base = round_to_int((row[1] * v + row[2]) * kScale);
    const int delta = round_to_int(row[0] * u * kScale);
    return int(uint32_t(base) + kHalfStep + uint32_t(delta)) >> 5;
}

HHRNET_HD int pixel_or_black(const WarpImage& image, int y, int x, int channel) {
    const bool inside = x >= 0 && x < image.width && y >= 0 && y < image.height;
    return inside ? image.pixels[y * image.row_stride + x * kWarpChannels + channel] : 0;
}

HHRNET_HD void warp_pixel(const WarpImage& image, const InverseAffine& inverse, int u, int v, uint8_t* out) {
    const int x32 = source_position(inverse.m, u, v), y32 = source_position(inverse.m + 3, u, v);
    const int x = clamped(x32 >> 5, -32768, 32767), y = clamped(y32 >> 5, -32768, 32767);
    const int fx = x32 & 31, fy = y32 & 31;
    for (int channel = 0; channel < kWarpChannels; ++channel) {
        const int sum = (32 - fy) * (32 - fx) * pixel_or_black(image, y, x, channel) +
                        (32 - fy) * fx * pixel_or_black(image, y, x + 1, channel) +
                        fy * (32 - fx) * pixel_or_black(image, y + 1, x, channel) +
                        fy * fx * pixel_or_black(image, y + 1, x + 1, channel);
        out[channel] = uint8_t((sum * 32 + (1 << 14)) >> 15);
    }
}

// Rows `begin` to `end` of the target (height, width, 3).
template <class Group>
HHRNET_HD void warp_rows(const Group& group, const WarpImage& image, const InverseAffine& inverse, int width,
                         int begin, int end, uint8_t* out) {
    for (int i = begin * width + group.rank(); i < end * width; i += group.size())
        warp_pixel(image, inverse, i % width, i / width, out + size_t(i) * kWarpChannels);
}

HHRNET_END
