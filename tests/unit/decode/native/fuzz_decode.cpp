// A fuzz target: arbitrary bytes as shapes, settings and head values, NaN and infinities among them. With
// clang build it with -fsanitize=fuzzer; elsewhere its own main feeds it random bytes (arguments: runs,
// seed).
#include <cstdio>
#include <cstdlib>

#include "random_heads.h"

using namespace hhrnet;
using testing::Case;
using testing::Random;

// Raw bytes over the values of a head.
static void overwrite(testing::Owned& owned, int channels, const uint8_t* data, size_t size) {
    const size_t bytes = size_t(owned.head.channel_stride) * channels * (owned.head.half ? 2 : 4);
    for (size_t i = 0; i < bytes && size > 0; ++i) owned.bytes[i] = char(data[i % size]);
}

// The steps after aggregate on whatever the workspace holds, as when an engine builder times a kernel on
// garbage.
static void run_on_garbage(const ImageRequest& r, char* memory, const uint8_t* data, size_t size) {
    const Workspace w = carve(r, memory);
    for (size_t i = 0; i < w.bytes && size > 0; ++i) memory[i] = char(data[i % size]);
    const Projection p = projection_of(r, w);
    const TagMaps tags = tag_maps_of(r, w);
    fill_tables(p, tags, w.tables);
    const int people = people_of(SingleThread{}, r, w, p, tags);
    if (people < 0 || people > r.joints * r.settings.max_people) std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    uint64_t seed = 0;
    std::memcpy(&seed, data, size < 8 ? size : 8);
    Random random(seed);
    Case one(random);
    const ImageResult plain = decode_image(one.request, one.workspace());
    if (plain.unusable) std::abort();
    for (size_t i = 0; i < one.heads.size(); ++i)
        if (random.chance(0.5f))
            overwrite(one.heads[i], i % 2 == 0 ? 2 * one.request.joints : one.request.joints, data, size);
    const ImageResult odd = decode_image(one.request, one.workspace());
    if (odd.unusable && odd.count != 0) std::abort();
    run_on_garbage(one.request, one.workspace(), data, size);
    return 0;
}

#if !defined(__clang__)
int main(int argc, char** argv) {
    const int runs = argc > 1 ? std::atoi(argv[1]) : 200;
    Random random(argc > 2 ? uint64_t(std::atoi(argv[2])) : 1);
    std::vector<uint8_t> bytes;
    for (int run = 0; run < runs; ++run) {
        bytes.resize(size_t(random.between(8, 400)));
        for (uint8_t& byte : bytes) byte = uint8_t(random.next());
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%d runs\n", runs);
    return 0;
}
#endif
