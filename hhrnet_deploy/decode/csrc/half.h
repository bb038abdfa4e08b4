// float16 inputs, widened exactly where they are loaded.
#pragma once

#include "platform.h"

HHRNET_BEGIN

HHRNET_HD float widen(uint16_t half) {
    uint32_t magnitude = half & 0x7fffu;
    // The exponent is rebiased by a multiplication, which is exact and handles subnormals too.
    uint32_t bits = bits_of(float_of(magnitude << 13) * 0x1p112f);
    bits = magnitude >= 0x7c00u ? 0x7f800000u | (magnitude << 13) : bits;
    return float_of(bits | (uint32_t(half & 0x8000u) << 16));
}

HHRNET_HD float widened(uint16_t half) { return widen(half); }
HHRNET_HD float widened(float value) { return value; }

HHRNET_END
