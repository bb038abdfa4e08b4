// The CUDA kernels: each a shell that finds its image and joint and calls the step of the same name with its
// block as the thread group. Arguments: input pointers, int32 scalars (a float by its bits), output pointers,
// in the order of decode/launch_table.py. No kernel needs dynamic shared memory; outputs need not be cleared
// before.
//
// HHRNET_ONLY (1 to 6) compiles one kernel alone, for its PTX.
#include "aggregate.h"
#include "merge.h"
#include "peaks.h"
#include "refine.h"
#include "tag_ranges.h"
#include "warp.h"

#ifndef HHRNET_ONLY
#define HHRNET_ONLY 0
#endif
#define HHRNET_WANTS(number) (HHRNET_ONLY == 0 || HHRNET_ONLY == number)

namespace {

using namespace hhrnet;

constexpr int kThreads = 512;

#ifndef HHRNET_WARP
#define HHRNET_WARP 32
#endif
constexpr unsigned kWholeWarp = 0xffffffffu;

// The host side of these functions is never run: templates are compiled for both.
#if defined(__CUDA_ARCH__)
struct Warp {
    __device__ int rank() const { return int(threadIdx.x) % size(); }
    __device__ int size() const { return HHRNET_WARP; }
    __device__ int index() const { return int(threadIdx.x) / size(); }
    __device__ int count() const { return int(blockDim.x) / size(); }
    __device__ void barrier() const { __syncwarp(); }
    template <class T>
    __device__ T exchange(T value, int mask) const {
        return __shfl_xor_sync(kWholeWarp, value, mask);
    }
    template <class T>
    __device__ T from(T value, int rank) const {
        return __shfl_sync(kWholeWarp, value, rank);
    }
    __device__ uint32_t ballot(bool value) const { return __ballot_sync(kWholeWarp, value); }
    __device__ uint32_t least_of(uint32_t value) const {
#if __CUDA_ARCH__ >= 800
        return __reduce_min_sync(kWholeWarp, value);
#else
        for (int mask = size() / 2; mask > 0; mask /= 2) value = least(value, exchange(value, mask));
        return value;
#endif
    }
    __device__ uint32_t any_of(uint32_t value) const {
#if __CUDA_ARCH__ >= 800
        return __reduce_or_sync(kWholeWarp, value);
#else
        for (int mask = size() / 2; mask > 0; mask /= 2) value |= exchange(value, mask);
        return value;
#endif
    }
};
#else
using Warp = Solo;
#endif

// A block; its teams are warps.
struct Block {
    static constexpr bool single = false;
#if defined(__CUDA_ARCH__)
    __device__ int rank() const { return int(threadIdx.x); }
    __device__ int size() const { return int(blockDim.x); }
    __device__ void barrier() const { __syncthreads(); }
    __device__ int add(int* counter, int amount) const { return atomicAdd(counter, amount); }
    __device__ unsigned long long raise(unsigned long long* place, unsigned long long value) const {
        return atomicMax(place, value);
    }
    __device__ Warp team() const { return {}; }
#else
    __host__ __device__ int rank() const { return 0; }
    __host__ __device__ int size() const { return 1; }
    __host__ __device__ void barrier() const {}
    __host__ __device__ int add(int*, int) const { return 0; }
    __host__ __device__ unsigned long long raise(unsigned long long*, unsigned long long) const { return 0; }
    __host__ __device__ Warp team() const { return {}; }
#endif
};

// What `group` keeps in shared memory where it fits: 17 joints with 30 candidates do.
constexpr int kStagedBytes = 20 * 1024;

static_assert(sizeof(PeakScratch) < 48 * 1024, "peaks has to fit into static shared memory");
static_assert(sizeof(TagScratch) <= sizeof(PeakScratch::patch), "peaks lends it the memory of patches");
static_assert(sizeof(GroupScratch) + kStagedBytes < 48 * 1024, "group has to fit into static shared memory");

struct Shape {
    int joints, dims, coarse_height, coarse_width, fine_height, fine_width, height, width;

    __device__ size_t fine_area() const { return size_t(fine_height) * fine_width; }
    __device__ size_t coarse_area() const { return size_t(coarse_height) * coarse_width; }
    __device__ size_t cells() const {
        return size_t(ceil_div(fine_height, kCell)) * ceil_div(fine_width, kCell);
    }
    __device__ Projection projection(int image, const float* heat, const float* cell_maxima) const {
        Projection p;
        p.scales = 1;
        p.height = height;
        p.width = width;
        p.scale[0] = {heat + image * joints * fine_area(),
                      cell_maxima + image * joints * cells(),
                      fine_width,
                      fine_height,
                      Axis(fine_height, height),
                      Axis(fine_width, width)};
        return p;
    }
    __device__ TagMaps tag_maps(int image, const float* tags) const {
        TagMaps maps;
        maps.dims = dims;
        maps.coarse_width = coarse_width;
        maps.coarse_height = coarse_height;
        maps.fine_width = fine_width;
        maps.fine_height = fine_height;
        maps.fit(width, height);
        const float* first = tags + image * joints * dims * coarse_area();
        maps.side[0] = copied_side(first, 0, dims, coarse_width, coarse_height);
        maps.side[1] = copied_side(first, dims - 1, dims, coarse_width, coarse_height);
        return maps;
    }
};

__device__ Head head_of(const void* data, int half, int image, int channels, int height, int width) {
    const size_t skipped = size_t(image) * channels * height * width * (half ? 2 : 4);
    return Head({static_cast<const char*>(data) + skipped, long(height) * width, width, half});
}

__device__ void aggregate_block(const void* coarse, const void* fine, const void* coarse_flipped,
                                const void* fine_flipped, const int* skeleton, int half, int joints,
                                int coarse_height, int coarse_width, int fine_height, int fine_width,
                                float* heat, float* tags, float* cells, int* unusable) {
    const int band = int(blockIdx.x), bands = int(gridDim.x), joint = int(blockIdx.y),
              image = int(blockIdx.z);
    const int dims = fine_flipped == nullptr ? 1 : 2;
    const Shape shape = {joints, dims, coarse_height, coarse_width, fine_height, fine_width, 0, 0};
    const Head absent({nullptr, 0, 0, 0});
    const ScaleHeads in = {
        head_of(coarse, half, image, 2 * joints, coarse_height, coarse_width),
        head_of(fine, half, image, joints, fine_height, fine_width),
        dims == 1 ? absent : head_of(coarse_flipped, half, image, 2 * joints, coarse_height, coarse_width),
        dims == 1 ? absent : head_of(fine_flipped, half, image, joints, fine_height, fine_width),
        coarse_width,
        coarse_height,
        fine_width,
        fine_height,
        joints};
    const int channel = image * joints + joint;
    const AggregateOutput out = {heat + channel * shape.fine_area(), cells + channel * shape.cells(),
                                 tags + size_t(channel) * dims * shape.coarse_area()};
    __shared__ int bad;
    if (threadIdx.x == 0) bad = 0;
    __syncthreads();
    const int flipped_joint = clamped(skeleton[joint], 0, joints - 1);
    if (aggregate_band(Block{}, in, joint, flipped_joint, band, bands, out)) atomicOr(&bad, 1);
    __syncthreads();
    if (threadIdx.x == 0) unusable[channel * bands + band] = bad;
}

}  // namespace

#if HHRNET_WANTS(1)
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    aggregate(const void* coarse, const void* fine, const int* skeleton, int half, int joints,
              int coarse_height, int coarse_width, int fine_height, int fine_width, float* heat, float* tags,
              float* cells, int* unusable) {
    aggregate_block(coarse, fine, nullptr, nullptr, skeleton, half, joints, coarse_height, coarse_width,
                    fine_height, fine_width, heat, tags, cells, unusable);
}
#endif

#if HHRNET_WANTS(2)
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    aggregate_flip(const void* coarse, const void* fine, const void* coarse_flipped, const void* fine_flipped,
                   const int* skeleton, int half, int joints, int coarse_height, int coarse_width,
                   int fine_height, int fine_width, float* heat, float* tags, float* cells, int* unusable) {
    aggregate_block(coarse, fine, coarse_flipped, fine_flipped, skeleton, half, joints, coarse_height,
                    coarse_width, fine_height, fine_width, heat, tags, cells, unusable);
}
#endif

#if HHRNET_WANTS(3)
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    peaks(const float* heat, const float* cells, const float* tags, int joints, int dims, int coarse_height,
          int coarse_width, int fine_height, int fine_width, int height, int width, int detection_threshold,
          int nms_kernel, int max_people, float* value, int* index, float* tag, float* bounds,
          float* tile_tags, int* live) {
    __shared__ PeakScratch scratch;
    const int joint = int(blockIdx.x), image = int(blockIdx.y), part = int(blockIdx.z),
              parts = int(gridDim.z);
    const Shape shape = {joints, dims, coarse_height, coarse_width, fine_height, fine_width, height, width};
    const Projection projection = shape.projection(image, heat, cells);
    const TagMaps maps = shape.tag_maps(image, tags);
    const int limit = clamped(max_people, 1, kMaxCandidates);
    const PeakSearch search = {projection,
                               nullptr,
                               joint,
                               __int_as_float(detection_threshold),
                               clamped(nms_kernel / 2, 0, kMaxReach),
                               limit,
                               part,
                               parts};
    const size_t first = (size_t(image) * joints + joint) * projection.tiles();
    const TagRanges ranges(maps, nullptr, projection, joint, tile_tags + first * 2 * dims);
    bound_all_tags(Block{}, ranges, part, parts, reinterpret_cast<TagScratch*>(scratch.patch));
    find_peaks(Block{}, search, bounds + first, live + first, scratch);
    const size_t places = size_t(image) * joints * parts * limit;
    write_candidates(Block{}, search, maps, scratch, {value + places, index + places, tag + places * dims});
}
#endif

#if HHRNET_WANTS(4)
// One block per image: the registers of a whole multiprocessor are free, and with fewer ptxas spills.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    group(const float* heat, const float* value, const int* index, const float* tag, const int* skeleton,
          const int* unusable, int joints, int dims, int fine_height, int fine_width, int height, int width,
          int bands, int parts, int detection_threshold, int tag_threshold_low, int tag_threshold_high,
          int max_people, int adjust, int use_detection_val, int ignore_too_much, float* keypoints,
          float* scores, float* joint_tags, float* person_tags, int* count, float* memory) {
    __shared__ GroupScratch scratch;
    __shared__ double staged[kStagedBytes / sizeof(double)];
    __shared__ int bad;
    const Block block;
    const int image = int(blockIdx.x), limit = clamped(max_people, 1, kMaxCandidates);
    if (block.rank() == 0) bad = 0;
    block.barrier();
    for (int i = block.rank(); i < joints * bands; i += block.size())
        if (unusable[image * joints * bands + i]) atomicOr(&bad, 1);
    block.barrier();
    if (bad) {
        if (block.rank() == 0) count[image] = -1;
        return;
    }
    const Shape shape = {joints, dims, 0, 0, fine_height, fine_width, height, width};
    const Projection projection = shape.projection(image, heat, heat);  // cells are not looked at
    const Settings settings = {__int_as_float(detection_threshold),
                               __hiloint2double(tag_threshold_high, tag_threshold_low),
                               0,
                               limit,
                               adjust,
                               1,
                               use_detection_val,
                               ignore_too_much};
    const size_t places = size_t(image) * joints * limit;
    const PeopleBuffers people = {keypoints + places * joints * 3, scores + places,
                                  joint_tags + places * joints * dims, person_tags + places * dims,
                                  count + image};
    const size_t scratch_bytes = GroupMemory::bytes(joints, limit, dims),
                 bytes = scratch_bytes + sizeof(float) * joints * limit * (2 + dims);
    char* own = reinterpret_cast<char*>(bytes <= sizeof staged ? staged : nullptr);
    if (own == nullptr) own = reinterpret_cast<char*>(memory + image * ((bytes + 7) / 8 * 2));
    float* merged = reinterpret_cast<float*>(own + scratch_bytes);
    const Candidates candidates = {merged, reinterpret_cast<int*>(merged + joints * limit),
                                   merged + 2 * joints * limit};
    const size_t first = size_t(image) * joints * parts * limit;
    merge_parts(block,
                {const_cast<float*>(value) + first, const_cast<int*>(index) + first,
                 const_cast<float*>(tag) + first * dims},
                joints, parts, limit, dims, settings.detection_threshold, candidates);
    const Grouping grouping = {settings,   joints, dims,
                               width,      height, skeleton + joints,
                               candidates, people, GroupMemory::at(own, joints, limit, dims)};
    group_people(block, grouping, scratch);
    const int found = scratch.people;
    score_people(block, grouping, found);
    mean_found_tags(block, grouping, found);
    if (adjust) adjust_joints(block, projection, grouping, found);
    if (block.rank() == 0) count[image] = found;
}
#endif

#if HHRNET_WANTS(5)
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    refine(const float* heat, const float* tags, const float* bounds, const float* tile_tags,
           const float* grouped, const float* person_tags, const int* count, int joints, int dims,
           int coarse_height, int coarse_width, int fine_height, int fine_width, int height, int width,
           int max_people, float* keypoints) {
    __shared__ RefineScratch scratch;
    const Block block;
    const int joint = int(blockIdx.x), image = int(blockIdx.y), part = int(blockIdx.z),
              parts = int(gridDim.z), limit = clamped(max_people, 1, kMaxCandidates);
    const Shape shape = {joints, dims, coarse_height, coarse_width, fine_height, fine_width, height, width};
    const Projection projection = shape.projection(image, heat, heat);  // cells are not looked at
    const TagMaps maps = shape.tag_maps(image, tags);
    const int people = clamped(count[image], 0, joints * limit), tiles = projection.tiles();
    const size_t first = size_t(image) * joints * limit, channel = size_t(image) * joints + joint;
    const size_t own = (first * joints + joint) * 3;
    const JointKeypoints points = {grouped + own, keypoints + own, joints * 3};
    for (int i = part + block.rank() * parts; i < people; i += block.size() * parts)
        if (!points.missing(i)) points.keep(i);
    float* own_ranges = const_cast<float*>(tile_tags) + channel * TagRanges::floats(tiles, dims);
    const Refinement refinement = {projection,
                                   maps,
                                   nullptr,
                                   {},
                                   joint,
                                   const_cast<float*>(bounds) + channel * tiles,
                                   {maps, nullptr, projection, joint, own_ranges}};
    refine_joint(block, refinement, {people, part, parts}, person_tags + first * dims, points, &scratch);
}
#endif

#if HHRNET_WANTS(6)
extern "C" __global__ void __launch_bounds__(kThreads)
    warp(const uint8_t* pixels, const double* inverse, int source_height, int source_width, int height,
         int width, uint8_t* out) {
    const int band = int(blockIdx.x), bands = int(gridDim.x), image = int(blockIdx.y);
    const WarpImage source = {pixels + size_t(image) * source_height * source_width * kWarpChannels,
                              source_width, source_height, long(source_width) * kWarpChannels};
    InverseAffine matrix;
    for (int i = 0; i < 6; ++i) matrix.m[i] = inverse[image * 6 + i];
    warp_rows(Block{}, source, matrix, width, height * band / bands, height * (band + 1) / bands,
              out + size_t(image) * height * width * kWarpChannels);
}
#endif
