// The shortcuts of grouping beside what they stand for: distances rounded and compared in float32, the
// threshold's square, doubles ordered as two words, the assignment by a warp beside that by one thread, also
// in whole numbers, and the lists of several blocks merged. Arguments: cases, seed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "cuda_on_host.h"
#include "kernels.cu"
#include "random_heads.h"

using testing::Random;

static int failures = 0;
static void expect(bool holds, const char* what) {
    if (!holds && ++failures <= 10) std::printf("%s\n", what);
}

// A number of any size, often a whole or half one or next to it.
static float awkward(Random& random) {
    float value = std::ldexp(random.unit() - 0.5f, random.between(-30, 30));
    if (random.chance(0.6f)) value = 0.5f * float(random.between(-40, 40));
    for (int steps = random.between(0, 3); random.chance(0.5f) && steps > 0; --steps)
        value = std::nextafter(value, random.chance(0.5f) ? 1e30f : -1e30f);
    return value;
}

static void check_distances(Random& random) {
    const int dims = random.between(1, 2);
    const Tag a = {{awkward(random), awkward(random)}}, b = {{awkward(random), awkward(random)}};
    const double exact = std::rint(std::sqrt(squared_distance(a, b, dims)));
    expect(rounded_distance(a, b, dims) == exact, "a rounded distance differs");
}

static void check_nearness(Random& random) {
    const int dims = random.between(1, 2);
    const Tag a = {{awkward(random), awkward(random)}}, b = {{awkward(random), awkward(random)}};
    const double exact = squared_distance(a, b, dims);
    const float square = quick_square(a, b, dims);
    const double limits[] = {exact, std::nextafter(exact, 0.0), std::nextafter(exact, 1e300),
                             exact * (1 + 4e-6 * (random.unit() - 0.5f)), square_of_threshold(random.unit())};
    for (const double limit : limits) {
        const Nearness nearness(limit);
        expect(!nearness.sure(square) || (square < nearness.middle) == (exact < limit), "nearness is wrong");
    }
}

static void check_threshold(Random& random) {
    const double threshold = random.chance(0.1f) ? 0.0 : std::fabs(double(awkward(random))) * random.unit();
    const double square = square_of_threshold(threshold);
    for (double near = square, step = 0; step < 4; ++step, near = std::nextafter(near, -1.0)) {
        if (near < 0.0) break;
        expect((std::sqrt(near) < threshold) == (near < square), "a distance below the square is not below");
        const double above = square + (square - near);
        expect((std::sqrt(above) < threshold) == (above < square), "a distance above the square is below");
    }
}

static void check_order(Random& random) {
    const double a = awkward(random), b = double(awkward(random)) * random.unit();
    const OrderedWords x = OrderedWords::of(a), y = OrderedWords::of(b);
    expect(x.value() == a, "a number does not come back from its words");
    if (a == b) return;
    expect((x.high != y.high ? x.high < y.high : x.low < y.low) == (a < b), "words are in another order");
}

// Costs as a joint has them: rivals, ties, rows of zeros at the end.
static std::vector<double> random_costs(Random& random, int n) {
    const int kinds = random.between(1, 6), padded = random.chance(0.5f) ? random.below(n + 1) : 0;
    std::vector<double> costs(size_t(n) * n);
    for (int row = 0; row < n; ++row)
        for (int column = 0; column < n; ++column)
            costs[size_t(row) * n + column] = row >= n - padded ? 0.0
                                              : random.chance(0.2f) && kinds > 3
                                                  ? kNobodyCost
                                                  : 100.0 * random.below(kinds) - double(random.below(3)) / 4;
    return costs;
}

static void assign_all(const std::vector<std::vector<double>>& matrices, const std::vector<int>& sizes,
                       std::vector<std::vector<int>>& found) {
    static AssignScratch scratch;
    static double work[32 * 32];
    launch({1, 1, 1}, 32, [&] {
        for (size_t i = 0; i < matrices.size(); ++i) {
            const int n = sizes[i];
            const double* costs = matrices[i].data();
            const auto cost_of = [=](int column) { return [=](int row) { return costs[row * n + column]; }; };
            assign(Block{}, cost_of, work, n, scratch, [](const auto&) {});
            if (threadIdx.x == 0) found[i].assign(scratch.star_in_row, scratch.star_in_row + n);
            __syncthreads();
        }
    });
}

static void check_assignment(Random& random, int cases) {
    std::vector<std::vector<double>> matrices;
    std::vector<int> sizes;
    std::vector<std::vector<int>> found(size_t(cases), std::vector<int>{});
    for (int i = 0; i < cases; ++i) {
        sizes.push_back(random.between(1, 32));
        matrices.push_back(random_costs(random, sizes.back()));
    }
    assign_all(matrices, sizes, found);
    AssignScratch scratch;
    for (int i = 0; i < cases; ++i) {
        const int n = sizes[size_t(i)];
        const double* costs = matrices[size_t(i)].data();
        std::vector<double> work(size_t(n) * n);
        const auto cost_of = [=](int column) { return [=](int row) { return costs[row * n + column]; }; };
        assign(SingleThread{}, cost_of, work.data(), n, scratch, [](const auto&) {});
        expect(found[size_t(i)] == std::vector<int>(scratch.star_in_row, scratch.star_in_row + n),
               "a warp assigns other columns");
    }
}

// Candidates and people of one joint, with tags that tie, now and then too far or with an unusual value.
struct Joint {
    int found, considered, dims;
    std::vector<float> value, tag;
    std::vector<Tag> person;
};

static Joint random_joint(Random& random) {
    Joint joint;
    joint.considered = random.between(1, 32);
    joint.found = random.between(1, joint.considered);
    joint.dims = random.between(1, 2);
    const float spread = random.chance(0.5f) ? 3.0f : random.chance(0.9f) ? 60.0f : 6000.0f;
    const float step = random.chance(0.5f) ? 0.5f : 0.001f;
    const auto tag = [&] { return std::rint(spread * random.unit() / step) * step; };
    const bool midway = random.chance(0.3f);  // people near 0, so that half a tag lies between whole numbers
    const auto person_tag = [&] { return midway ? 1e-4f * (random.unit() - 0.5f) : tag(); };
    for (int i = 0; i < joint.considered; ++i) joint.person.push_back({{person_tag(), person_tag()}});
    for (int i = 0; i < joint.found; ++i) {
        joint.value.push_back(0.01f + random.unit());
        if (random.chance(0.005f)) joint.value.back() = random.chance(0.5f) ? 1e-5f : 3000.0f;
        for (int dim = 0; dim < joint.dims; ++dim)
            joint.tag.push_back(random.chance(0.5f)
                                    ? joint.person[size_t(random.below(joint.considered))].value[dim]
                                    : tag());
    }
    return joint;
}

static Tag tag_of(const Joint& joint, int row) {
    return Tag::read(joint.tag.data() + row * joint.dims, joint.dims);
}

static void check_whole(Random& random, int cases, int threads) {
    std::vector<Joint> joints;
    for (int i = 0; i < cases; ++i) joints.push_back(random_joint(random));
    const double limit = square_of_threshold(1.0);
    std::vector<std::vector<int>> columns(size_t(cases), std::vector<int>(32, -1));
    std::vector<std::vector<uint32_t>> near(size_t(cases), std::vector<uint32_t>(32, 0u));
    std::vector<int> fits(size_t(cases), 0);
    static AssignScratch scratch;
    static int cost[kMaxTeam * kMaxTeam];
    launch({1, 1, 1}, threads, [&] {
        const Block block;
        for (size_t i = 0; i < joints.size(); ++i) {
            const Joint& joint = joints[i];
            const WholeCosts costs = {joint.value.data(),
                                      joint.tag.data(),
                                      joint.person.data(),
                                      joint.found,
                                      joint.considered,
                                      joint.dims,
                                      limit,
                                      cost,
                                      near[i].data()};
            reduce_whole(block, costs, scratch);
            if (block.team().index() == 0) {
                int column = -1;
                const bool fit = assign_whole(block.team(), costs, scratch, column);
                columns[i][size_t(block.team().rank())] = column;
                if (block.rank() == 0) fits[i] = fit;
            }
            __syncthreads();
        }
    });
    for (size_t i = 0; i < joints.size(); ++i) {
        const Joint& joint = joints[i];
        bool usual = true;
        for (int row = 0; row < joint.found; ++row) {
            const float value = joint.value[size_t(row)];
            usual &= value >= kLeastValue && value < kValueLimit;
            for (int column = 0; column < joint.considered; ++column) {
                const double square =
                    squared_distance(tag_of(joint, row), joint.person[size_t(column)], joint.dims);
                usual &= std::rint(std::sqrt(square)) <= 5000.0;
                expect((near[i][size_t(row)] >> column & 1u) == (square < limit), "another person is near");
            }
        }
        expect(bool(fits[i]) == usual, "whole numbers where they do not do, or none where they do");
        if (!fits[i]) continue;
        const auto cost_of = [&](int column) {
            return [&, column](int row) {
                if (row >= joint.found) return 0.0;
                const Tag own = tag_of(joint, row);
                return rounded_distance(own, joint.person[size_t(column)], joint.dims) * 100.0 -
                       double(joint.value[size_t(row)]);
            };
        };
        AssignScratch one;
        std::vector<double> work(size_t(joint.considered) * size_t(joint.considered));
        assign(SingleThread{}, cost_of, work.data(), joint.considered, one, [](const auto&) {});
        for (int row = 0; row < joint.found; ++row)
            expect(columns[i][size_t(row)] == one.star_in_row[row], "whole numbers assign another person");
    }
}

// The lists of several parts, sorted, with ties between them; few or many in use.
static void check_merging(Random& random, int cases, int threads) {
    for (int number = 0; number < cases; ++number) {
        const int joints = random.between(1, 3), parts = random.between(1, 9), room = random.between(1, 70),
                  dims = random.between(1, 2), lists = joints * parts;
        const int most = random.chance(0.5f) ? least(room, 9) : room;
        std::vector<float> value(size_t(lists) * room, 0.0f), tag(size_t(lists) * room * dims, 0.0f);
        std::vector<int> index(size_t(lists) * room, 0);
        std::vector<float> merged_value(size_t(joints) * room), merged_tag(size_t(joints) * room * dims);
        std::vector<int> merged_index(size_t(joints) * room);
        std::vector<std::vector<Peak>> expected(static_cast<size_t>(joints));
        for (int list = 0; list < lists; ++list) {
            std::vector<Peak> peaks(size_t(random.below(most + 1)));
            for (size_t i = 0; i < peaks.size(); ++i)  // no two at one place
                peaks[i] = {0.25f * float(random.between(1, 6)),
                            (random.below(1000) * 64 + int(i)) * lists + list};
            std::sort(peaks.begin(), peaks.end(), better);
            for (size_t i = 0; i < peaks.size(); ++i) {
                value[size_t(list * room) + i] = peaks[i].value;
                index[size_t(list * room) + i] = peaks[i].index;
                for (int dim = 0; dim < dims; ++dim)
                    tag[(size_t(list * room) + i) * dims + dim] = float(peaks[i].index + dim);
                expected[size_t(list / parts)].push_back(peaks[i]);
            }
        }
        launch({1, 1, 1}, threads, [&] {
            merge_parts(Block{}, {value.data(), index.data(), tag.data()}, joints, parts, room, dims, 0.1f,
                        {merged_value.data(), merged_index.data(), merged_tag.data()});
        });
        for (int joint = 0; joint < joints; ++joint) {
            auto& peaks = expected[size_t(joint)];
            std::sort(peaks.begin(), peaks.end(), better);
            for (int i = 0; i < room; ++i) {
                const size_t at = size_t(joint * room + i);
                const bool used = i < int(peaks.size());
                expect(merged_value[at] == (used ? peaks[size_t(i)].value : 0.0f), "a merged value differs");
                if (!used) continue;
                expect(merged_index[at] == peaks[size_t(i)].index, "a merged index differs");
                for (int dim = 0; dim < dims; ++dim)
                    expect(merged_tag[at * dims + dim] == float(peaks[size_t(i)].index + dim),
                           "a merged tag differs");
            }
        }
    }
}

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 1000;
    Random random(argc > 2 ? uint64_t(std::atoi(argv[2])) : 1);
    for (int i = 0; i < 1000 * cases; ++i) {
        check_distances(random);
        check_nearness(random);
        check_threshold(random);
        check_order(random);
    }
    check_assignment(random, cases);
    for (const int threads : {32, 128}) check_whole(random, cases, threads);
    for (const int threads : {32, 128}) check_merging(random, cases, threads);
    std::printf("%d cases, %d failures\n", cases, failures);
    return failures > 0;
}
