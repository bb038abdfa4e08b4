// Tags and how far they are from each other.
#pragma once

#include "layout.h"

HHRNET_BEGIN

// A tag of `dims` dimensions where there is room for the most.
struct Tag {
    float value[kMaxTagDims];

    HHRNET_HD static Tag read(const float* from, int dims) { return {{from[0], from[dims - 1]}}; }
};
static_assert(kMaxTagDims == 2, "Tag::read takes the first and the last");

// The square of the L2 distance of a candidate from a person's tag, in float64 as np.linalg.norm adds it up.
HHRNET_HD double squared_distance(const Tag& a, const Tag& b, int dims) {
    double sum = 0.0;
    for (int dim = 0; dim < kMaxTagDims; ++dim) {
        const double difference = double(a.value[dim]) - double(b.value[dim]);
        sum = dim < dims ? sum + difference * difference : sum;
    }
    return sum;
}

// The same in float32, at most 4e-7 of itself away, and its root, at most 2e-7.
HHRNET_HD float quick_square(const Tag& a, const Tag& b, int dims) {
    float sum = 0.0f;
    for (int dim = 0; dim < kMaxTagDims; ++dim) {
        const float difference = a.value[dim] - b.value[dim];
        sum = dim < dims ? sum + difference * difference : sum;
    }
    return sum;
}

// rint(sqrt(squared_distance)) by way of float32, which decides wherever the root is not as close to the
// middle between two whole numbers as it may be off.
struct RoundedDistance {
    float whole;  // where it is not sure, one off at most, or no number
    bool sure;

    HHRNET_HD explicit RoundedDistance(float square) {
        const float root = sqrtf(square);
        whole = rintf(root);
        sure = 0.5f - fabsf(root - whole) > 5e-7f * root;
    }
};

HHRNET_HD double rounded_distance(const Tag& a, const Tag& b, int dims) {
    const RoundedDistance quick(quick_square(a, b, dims));
    return quick.sure ? double(quick.whole) : rint(sqrt(squared_distance(a, b, dims)));
}

// The least number whose root, rounded, is not below the threshold: a root is below where its square is below
// this.
HHRNET_HD double square_of_threshold(double threshold) {
    if (!(threshold > 0.0)) return 0.0;
    double square = threshold * threshold;
    while (sqrt(square) < threshold) square = nextafter(square, HUGE_VAL);
    for (double below = nextafter(square, 0.0); !(sqrt(below) < threshold); below = nextafter(square, 0.0))
        square = below;
    return square;
}

// Whether a squared distance is below `limit`, by way of float32 where that decides.
struct Nearness {
    double limit;
    float middle, margin;

    HHRNET_HD explicit Nearness(double limit)
        : limit(limit), middle(float(limit)), margin(middle > 1e-30f ? 1e-6f * middle : HUGE_VALF) {}
    HHRNET_HD bool sure(float square) const { return fabsf(square - middle) > margin; }
};

HHRNET_END
