// Runs the CUDA kernels' shells on batches of random images with blocks of threads, buffers sized as the
// launch table says and filled with garbage first, and compares every bit with the group of one. Arguments:
// threads, cases, seed.
#include <cstdio>
#include <cstdlib>

#include "cuda_on_host.h"
#include "kernels.cu"
#include "random_heads.h"

using testing::Case;
using testing::Random;

template <class T>
std::vector<T> garbage(size_t count) {
    std::vector<T> values(count);
    std::memset(values.data(), 0x5b, count * sizeof(T));
    return values;
}

// A batch of images of one shape and one configuration; their heads, one image after another.
struct Batch {
    std::vector<Case> images;
    std::vector<char> coarse, fine, coarse_flipped, fine_flipped;

    Batch(Random& random, int count) {
        const Random start = random;
        for (int image = 0; image < count; ++image) {
            Random again = start;
            images.emplace_back(again, uint64_t(image));
            random = again;
        }
        for (const Case& one : images) {
            append(coarse, one.request.scale[0].coarse, 2 * one.request.joints);
            append(fine, one.request.scale[0].fine, one.request.joints);
            if (one.request.dims == 1) continue;
            append(coarse_flipped, one.request.scale[0].coarse_flipped, 2 * one.request.joints);
            append(fine_flipped, one.request.scale[0].fine_flipped, one.request.joints);
        }
    }

  private:
    static void append(std::vector<char>& all, const HeadData& head, int channels) {
        const char* data = static_cast<const char*>(head.data);
        all.insert(all.end(), data, data + size_t(head.channel_stride) * channels * (head.half ? 2 : 4));
    }
};

static int low_bits(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, 8);
    return int(uint32_t(bits));
}

static int high_bits(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, 8);
    return int(uint32_t(bits >> 32));
}

struct Output {
    std::vector<float> keypoints, scores, joint_tags;
    std::vector<int> count;
};

static Output run_kernels(const Batch& batch, int threads) {
    const ImageRequest& r = batch.images[0].request;
    const ScaleData& s = r.scale[0];
    const Settings& set = r.settings;
    const int n = int(batch.images.size()), k = r.joints, l = r.dims, m = set.max_people,
              bands = ceil_div(s.fine_height, 8), parts = (n + 7) / n;
    const int ch = s.coarse_height, cw = s.coarse_width, fh = s.fine_height, fw = s.fine_width, h = r.height,
              w = r.width;
    const size_t channels = size_t(n) * k, tiles = size_t(ceil_div(h, kTile)) * ceil_div(w, kTile),
                 places = channels * m, found = places * unsigned(parts);
    auto heat = garbage<float>(channels * fh * fw), tags = garbage<float>(channels * l * ch * cw);
    auto cells = garbage<float>(channels * ceil_div(fh, kCell) * ceil_div(fw, kCell));
    auto unusable = garbage<int>(channels * bands), index = garbage<int>(found),
         live = garbage<int>(channels * tiles);
    auto value = garbage<float>(found), tag = garbage<float>(found * l),
         bounds = garbage<float>(channels * tiles), tile_tags = garbage<float>(channels * 2 * l * tiles);
    auto grouped = garbage<float>(places * k * 3), person_tags = garbage<float>(places * l);
    auto group_memory = garbage<float>(size_t(n) * 2 * (m * m + (m * k * 5 + 1) / 2));
    Output out = {garbage<float>(places * k * 3), garbage<float>(places), garbage<float>(places * k * l),
                  garbage<int>(size_t(n))};
    std::vector<int> skeleton(batch.images[0].flip_index);
    skeleton.insert(skeleton.end(), batch.images[0].order.begin(), batch.images[0].order.end());
    const Dim merge_grid = {unsigned(bands), unsigned(k), unsigned(n)};
    launch(merge_grid, threads, [&] {
        if (l == 1)
            aggregate(batch.coarse.data(), batch.fine.data(), skeleton.data(), s.fine.half, k, ch, cw, fh, fw,
                      heat.data(), tags.data(), cells.data(), unusable.data());
        else
            aggregate_flip(batch.coarse.data(), batch.fine.data(), batch.coarse_flipped.data(),
                           batch.fine_flipped.data(), skeleton.data(), s.fine.half, k, ch, cw, fh, fw,
                           heat.data(), tags.data(), cells.data(), unusable.data());
    });
    int threshold;
    std::memcpy(&threshold, &set.detection_threshold, 4);
    const Dim joint_grid = {unsigned(k), unsigned(n), unsigned(parts)};
    launch(joint_grid, threads, [&] {
        peaks(heat.data(), cells.data(), tags.data(), k, l, ch, cw, fh, fw, h, w, threshold, set.nms_kernel,
              m, value.data(), index.data(), tag.data(), bounds.data(), tile_tags.data(), live.data());
    });
    std::vector<float>& target = set.refine ? grouped : out.keypoints;
    launch({unsigned(n), 1, 1}, threads, [&] {
        group(heat.data(), value.data(), index.data(), tag.data(), skeleton.data(), unusable.data(), k, l, fh,
              fw, h, w, bands, parts, threshold, low_bits(set.tag_threshold), high_bits(set.tag_threshold), m,
              set.adjust, set.use_detection_val, set.ignore_too_much, target.data(), out.scores.data(),
              out.joint_tags.data(), person_tags.data(), out.count.data(), group_memory.data());
    });
    if (!set.refine) return out;
    launch(joint_grid, threads, [&] {
        refine(heat.data(), tags.data(), bounds.data(), tile_tags.data(), grouped.data(), person_tags.data(),
               out.count.data(), k, l, ch, cw, fh, fw, h, w, m, out.keypoints.data());
    });
    return out;
}

static bool same(const Output& out, size_t image, Case& one) {
    const ImageResult alone = decode_image(one.request, one.workspace());
    const size_t joints = size_t(one.request.joints), count = size_t(alone.count),
                 dims = size_t(one.request.dims);
    const size_t first = image * joints * size_t(one.request.settings.max_people);
    return !alone.unusable && alone.count == out.count[image] &&
           !std::memcmp(alone.keypoints, &out.keypoints[first * joints * 3], 4 * count * joints * 3) &&
           !std::memcmp(alone.scores, &out.scores[first], 4 * count) &&
           !std::memcmp(alone.joint_tags, &out.joint_tags[first * joints * dims], 4 * count * joints * dims);
}

// The warp's shell against the host's loop.
static bool same_warp(Random& random, int threads) {
    const int n = random.between(1, 3), sh = random.between(1, 40), sw = random.between(1, 40);
    const int h = random.between(1, 50), w = random.between(1, 50);
    std::vector<uint8_t> pixels(size_t(n) * sh * sw * 3);
    for (uint8_t& pixel : pixels) pixel = uint8_t(random.next());
    std::vector<double> inverse;
    for (int i = 0; i < 6 * n; ++i) inverse.push_back(4.0 * random.unit() - 2.0);
    auto made = garbage<uint8_t>(size_t(n) * h * w * 3), expected = made;
    launch({unsigned(ceil_div(h, 4)), unsigned(n), 1}, threads,
           [&] { warp(pixels.data(), inverse.data(), sh, sw, h, w, made.data()); });
    for (int image = 0; image < n; ++image) {
        InverseAffine matrix;
        for (int i = 0; i < 6; ++i) matrix.m[i] = inverse[size_t(image) * 6 + i];
        const WarpImage source = {&pixels[size_t(image) * sh * sw * 3], sw, sh, sw * 3l};
        warp_rows(SingleThread{}, source, matrix, w, 0, h, &expected[size_t(image) * h * w * 3]);
    }
    return made == expected;
}

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 8, cases = argc > 2 ? std::atoi(argv[2]) : 20;
    Random random(argc > 3 ? uint64_t(std::atoi(argv[3])) : 1);
    long people = 0;
    for (int i = 0; i < cases; ++i) {
        Batch batch(random, random.between(1, 3));
        if (batch.images[0].request.scales > 1) continue;
        const Output out = run_kernels(batch, threads);
        for (size_t image = 0; image < batch.images.size(); ++image) {
            if (!same(out, image, batch.images[image])) {
                std::printf("case %d, image %zu: the kernels find other people\n", i, image);
                return 1;
            }
            people += out.count[image];
        }
        if (!same_warp(random, threads)) {
            std::printf("case %d: the kernel warps to other pixels\n", i);
            return 1;
        }
    }
    std::printf("%d cases, %ld people, kernels equal a group of one\n", cases, people);
    return people > 0 ? 0 : 1;
}
