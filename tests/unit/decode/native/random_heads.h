// Random heads in exactly sized heap blocks, so that AddressSanitizer sees every access outside.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "decode.h"

namespace testing {

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
    uint32_t next() {
        state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
        return uint32_t(state_ >> 33);
    }
    int below(int limit) { return int(next() % uint32_t(limit)); }
    int between(int low, int high) { return low + below(high - low + 1); }
    float unit() { return float(next() & 0xffffff) / float(1 << 24); }
    bool chance(float share) { return unit() < share; }

  private:
    uint64_t state_;
};

struct Owned {
    std::unique_ptr<char[]> bytes;
    hhrnet::HeadData head;
};

inline uint16_t half_of(float value) {  // truncates; only for making inputs
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const int exponent = int(bits >> 23 & 255) - 112;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (exponent <= 0) return sign;
    return uint16_t(sign | (exponent > 30 ? 0x7bff : exponent << 10 | (bits >> 13 & 0x3ff)));
}

template <class Value>
Owned make_head(int channels, int height, int width, bool half, const Value& value) {
    const size_t count = size_t(channels) * height * width;
    Owned owned{std::unique_ptr<char[]>(new char[count * (half ? 2 : 4)]), {}};
    for (size_t i = 0; i < count; ++i) {
        const float v = value(i);
        const uint16_t h = half_of(v);
        if (half)
            std::memcpy(owned.bytes.get() + 2 * i, &h, 2);
        else
            std::memcpy(owned.bytes.get() + 4 * i, &v, 4);
    }
    owned.head = {owned.bytes.get(), long(height) * width, width, half};
    return owned;
}

struct AlignedDelete {
    void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t(64)); }
};

// One image's request with its heads: smooth bumps and steps, so that peaks, plateaus and ties are common.
struct Case {
    std::vector<Owned> heads;
    std::vector<int> flip_index, order;
    hhrnet::ImageRequest request{};
    std::unique_ptr<char[], AlignedDelete> block;

    // `variation` changes the values of the heads and nothing else.
    explicit Case(Random& random, uint64_t variation = 0) : phase_(float(variation)) {
        using namespace hhrnet;
        const int joints = random.between(1, 6);
        const bool flip = random.chance(0.5f), half = random.chance(0.3f);
        request.joints = joints;
        request.dims = flip ? 2 : 1;
        request.scales = random.chance(0.3f) ? random.between(2, 3) : 1;
        request.tag_scale = random.below(request.scales);
        request.width = random.between(1, 70);
        request.height = random.between(1, 70);
        request.settings = {random.chance(0.8f) ? 0.1f : 0.0f,
                            random.chance(0.7f) ? 1.0 : 3.0,
                            2 * random.below(5) + 1,
                            random.between(1, 40),
                            random.chance(0.8f),
                            random.chance(0.8f),
                            random.chance(0.8f),
                            random.chance(0.2f)};
        for (int k = 0; k < joints; ++k) {
            flip_index.push_back(k);
            order.push_back(joints - 1 - k);
        }
        for (int k = 0; k + 1 < joints; k += 2) std::swap(flip_index[k], flip_index[k + 1]);
        request.flip_index = flip_index.data();
        request.order = order.data();
        for (int s = 0; s < request.scales; ++s) fill_scale(random, request.scale[s], flip, half);
    }

    // A workspace whose end is the end of a heap block.
    char* workspace() {
        const size_t bytes = hhrnet::workspace_bytes(request);
        block.reset(static_cast<char*>(::operator new[](bytes, std::align_val_t(64))));
        std::memset(block.get(), 0xa5, bytes);
        return block.get();
    }

  private:
    float phase_;

    void fill_scale(Random& random, hhrnet::ScaleData& scale, bool flip, bool half) {
        scale.fine_width = random.between(1, 40);
        scale.fine_height = random.between(1, 40);
        const bool exact = random.chance(0.6f);
        scale.coarse_width = exact ? (scale.fine_width + 1) / 2 : random.between(1, 30);
        scale.coarse_height = exact ? (scale.fine_height + 1) / 2 : random.between(1, 30);
        if (exact) scale.fine_width = scale.coarse_width * 2;
        if (exact) scale.fine_height = scale.coarse_height * 2;
        const float step = random.chance(0.4f) ? 0.25f : 0.0f;
        const auto value = [&](size_t i) {
            const float raw = random.unit() * std::sin(float(i) * 0.37f + phase_) + 0.2f * random.unit();
            return step > 0 ? std::round(raw / step) * step : raw;
        };
        const auto coarse_value = [&](size_t i) {
            const size_t heat = size_t(request.joints) * scale.coarse_width * scale.coarse_height;
            return i < heat ? value(i)
                            : std::round(4.0f * random.unit()) * (step > 0 ? 0.5f : 1.3f * random.unit());
        };
        for (int side = 0; side < (flip ? 2 : 1); ++side) {
            heads.push_back(
                make_head(2 * request.joints, scale.coarse_height, scale.coarse_width, half, coarse_value));
            (side == 0 ? scale.coarse : scale.coarse_flipped) = heads.back().head;
            heads.push_back(make_head(request.joints, scale.fine_height, scale.fine_width, half, value));
            (side == 0 ? scale.fine : scale.fine_flipped) = heads.back().head;
        }
    }
};

}  // namespace testing
