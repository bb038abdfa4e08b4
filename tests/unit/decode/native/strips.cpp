// Heat and tags of a strip, sampled at once, beside the same pixel by pixel: equal bits. Arguments: cases,
// seed.
#include <cstdio>
#include <cstdlib>

#include "random_heads.h"
#include "sample.h"

using namespace hhrnet;
using testing::Random;

static std::vector<float> drawn(Random& random, size_t count) {
    std::vector<float> values(count);
    for (float& value : values)
        value = random.chance(0.1f) ? -0.0f : (random.unit() - 0.5f) * (random.chance(0.5f) ? 40.0f : 1e-3f);
    return values;
}

static int resized(Random& random, int size) {
    return random.chance(0.7f) ? 2 * size : random.between(1, 3 * size);
}

static bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

static int differing(Random& random) {
    TagMaps maps = {};
    maps.dims = random.between(1, kMaxTagDims);
    maps.coarse_width = random.between(1, 9);
    maps.coarse_height = random.between(1, 9);
    maps.fine_width = resized(random, maps.coarse_width);
    maps.fine_height = resized(random, maps.coarse_height);
    const int width = resized(random, maps.fine_width), height = resized(random, maps.fine_height);
    maps.fit(width, height);
    const int joints = 2, joint = random.below(joints);
    const long area = long(maps.coarse_width) * maps.coarse_height;
    const std::vector<float> tags = drawn(random, size_t(area) * joints * maps.dims);
    for (int dim = 0; dim < maps.dims; ++dim)
        maps.side[dim] = copied_side(tags.data(), dim, maps.dims, maps.coarse_width, maps.coarse_height);

    const std::vector<float> heat = drawn(random, size_t(maps.fine_width) * maps.fine_height * joints);
    Projection projection = {};
    projection.scales = 1;
    projection.width = width;
    projection.height = height;
    projection.scale[0] = {heat.data(),      nullptr,        maps.fine_width,
                           maps.fine_height, maps.grid_rows, maps.grid_columns};
    int failures = 0;
    for (int y = 0; y < height; y += kStrip)
        for (int x = 0; x < width; ++x) {
            float column[kStrip];
            sample_heat_column(projection, joint, y, x, column);
            for (int i = 0; i < kStrip && y + i < height; ++i)
                failures += !same(column[i], sample_heat(projection, joint, y + i, x));
            for (int dim = 0; dim < maps.dims; ++dim) {
                sample_tag_column(maps, joint, dim, y, x, column);
                for (int i = 0; i < kStrip && y + i < height; ++i)
                    failures += !same(column[i], sample_tag(maps, joint, dim, TagPlace(maps, y + i, x)));
            }
        }
    return failures;
}

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 1000;
    Random random(argc > 2 ? uint64_t(std::atoi(argv[2])) : 1);
    int failures = 0;
    for (int i = 0; i < cases; ++i) failures += differing(random);
    std::printf("%d cases, %d values differ\n", cases, failures);
    return failures > 0;
}
