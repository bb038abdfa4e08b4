// Enough of CUDA's language for g++ to compile kernels.cu and run its blocks one after another, the threads
// of each together: the shells' index arithmetic and barriers are tested without a GPU.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "together.h"

#define __CUDA_ARCH__ 750
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

inline Dim blockDim, gridDim;

constexpr unsigned kMostThreads = 1024;
struct Place {
    Dim thread, block;
};
inline Place places[kMostThreads];
#define threadIdx (places[Together::rank()].thread)
#define blockIdx (places[Together::rank()].block)

inline Meeting block_meeting;
inline void __syncthreads() { block_meeting.wait(); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(unsigned(value)); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int atomicAdd(int* place, int value) { return __atomic_fetch_add(place, value, __ATOMIC_RELAXED); }
inline int atomicOr(int* place, int value) { return __atomic_fetch_or(place, value, __ATOMIC_RELAXED); }
inline unsigned long long atomicMax(unsigned long long* place, unsigned long long value) {
    unsigned long long seen = __atomic_load_n(place, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(place, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline double __hiloint2double(int high, int low) {
    const uint64_t bits = uint64_t(uint32_t(high)) << 32 | uint32_t(low);
    double value;
    std::memcpy(&value, &bits, 8);
    return value;
}

// A warp: threads that hand each other eight bytes at a time.
#define HHRNET_WARP int(warp_size)
inline unsigned warp_size;

struct HostWarp {
    Meeting meeting;
    uint64_t slots[32];
};
inline HostWarp warps[32];

inline void __syncwarp() { warps[threadIdx.x / warp_size].meeting.wait(); }
template <class T>
T __shfl_sync(unsigned, T value, int rank) {
    HostWarp& warp = warps[threadIdx.x / warp_size];
    std::memcpy(&warp.slots[threadIdx.x % warp_size], &value, sizeof value);
    __syncwarp();
    std::memcpy(&value, &warp.slots[unsigned(rank) % warp_size], sizeof value);
    __syncwarp();
    return value;
}
template <class T>
T __shfl_xor_sync(unsigned all, T value, int mask) {
    return __shfl_sync(all, value, int(threadIdx.x % warp_size) ^ mask);
}
inline unsigned __ballot_sync(unsigned all, bool value) {
    unsigned votes = unsigned(value) << threadIdx.x % warp_size;
    for (int mask = int(warp_size) / 2; mask > 0; mask /= 2) votes |= __shfl_xor_sync(all, votes, mask);
    return votes;
}

// Runs `kernel` for every block of `grid`, `threads` threads each, a power of two.
inline void launch(Dim grid, int threads, const std::function<void()>& kernel) {
    if (threads > int(kMostThreads) || (threads & (threads - 1)) != 0) std::abort();
    warp_size = unsigned(threads < 32 ? threads : 32);
    for (HostWarp& warp : warps) warp.meeting.expect(warp_size);
    block_meeting.expect(unsigned(threads));
    gridDim = grid;
    blockDim = {unsigned(threads), 1, 1};
    Together::run(unsigned(threads), [&](unsigned rank) {
        threadIdx = {rank, 0, 0};
        for (unsigned z = 0; z < grid.z; ++z)
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    blockIdx = {x, y, z};
                    kernel();
                    __syncthreads();
                }
    });
}
