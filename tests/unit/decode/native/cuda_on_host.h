// Enough of CUDA's language for g++ to compile kernels.cu and run its blocks one after another with real
// threads: the shells' index arithmetic and barriers are tested without a GPU.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#define __CUDA_ARCH__ 750
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

inline thread_local Dim threadIdx, blockIdx;
inline Dim blockDim, gridDim;
inline pthread_barrier_t block_barrier;

inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(unsigned(value)); }
inline int atomicAdd(int* place, int value) { return __atomic_fetch_add(place, value, __ATOMIC_RELAXED); }
inline int atomicOr(int* place, int value) { return __atomic_fetch_or(place, value, __ATOMIC_RELAXED); }
inline void atomicMax(unsigned long long* place, unsigned long long value) {
    unsigned long long seen = __atomic_load_n(place, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(place, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
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

// Volatile reads are single loads on the GPU; with --param tsan-distinguish-volatile=1 ThreadSanitizer calls
// these for them, and they report nothing.
extern "C" {
void __tsan_volatile_read8(void*) {}
void __tsan_volatile_read4(void*) {}
void __tsan_volatile_write8(void*) {}
void __tsan_volatile_write4(void*) {}
}

// Runs `kernel` for every block of `grid`, `threads` threads each.
inline void launch(Dim grid, int threads, const std::function<void()>& kernel) {
    gridDim = grid;
    blockDim = {unsigned(threads), 1, 1};
    pthread_barrier_init(&block_barrier, nullptr, unsigned(threads));
    std::vector<std::thread> block;
    for (unsigned rank = 0; rank < unsigned(threads); ++rank)
        block.emplace_back([&, rank] {
            threadIdx = {rank, 0, 0};
            for (unsigned z = 0; z < grid.z; ++z)
                for (unsigned y = 0; y < grid.y; ++y)
                    for (unsigned x = 0; x < grid.x; ++x) {
                        blockIdx = {x, y, z};
                        kernel();
                        __syncthreads();
                    }
        });
    for (std::thread& thread : block) thread.join();
    pthread_barrier_destroy(&block_barrier);
}
