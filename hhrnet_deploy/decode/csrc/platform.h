// What differs between g++ and nvcc, and between the instruction-set variants of one g++ build.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define HHRNET_HD __host__ __device__ __forceinline__
#else
#define HHRNET_HD inline
#endif

#if defined(__CUDACC__)
#define HHRNET_UNROLL _Pragma("unroll 4")
#define HHRNET_UNROLL_ALL _Pragma("unroll")
#define HHRNET_ROLLED _Pragma("unroll 1")
#else
#define HHRNET_UNROLL
#define HHRNET_UNROLL_ALL
#define HHRNET_ROLLED
#endif

// No two pointers to the same memory, on the host. On a GPU it would also say that the kernel itself never
// writes there: nvcc may then read through the cache that does not see what other threads have just written.
#if defined(__CUDA_ARCH__)
#define HHRNET_RESTRICT
#else
#define HHRNET_RESTRICT __restrict__
#endif

// Every header is compiled once per instruction set; each copy lives in its own namespace, so that the linker
// cannot hand AVX code to a machine without it.
#ifndef HHRNET_VARIANT
#define HHRNET_VARIANT portable
#endif

#define HHRNET_BEGIN   \
    namespace hhrnet { \
    inline namespace HHRNET_VARIANT {
#define HHRNET_END \
    }              \
    }

HHRNET_BEGIN

HHRNET_HD uint32_t bits_of(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

HHRNET_HD float float_of(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
HHRNET_HD T least(T a, T b) {
    return b < a ? b : a;
}

template <class T>
HHRNET_HD T greatest(T a, T b) {
    return a < b ? b : a;
}

template <class T>
HHRNET_HD T clamped(T value, T low, T high) {
    return least(greatest(value, low), high);
}

HHRNET_HD int ceil_div(int a, int b) { return (a + b - 1) / b; }

HHRNET_END
