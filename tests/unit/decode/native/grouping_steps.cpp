// The shortcuts of grouping beside what they stand for: distances rounded in float32, the threshold's square,
// doubles ordered as two words, and the assignment by a warp beside that by one thread. Arguments: cases,
// seed.
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

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 1000;
    Random random(argc > 2 ? uint64_t(std::atoi(argv[2])) : 1);
    for (int i = 0; i < 1000 * cases; ++i) {
        check_distances(random);
        check_threshold(random);
        check_order(random);
    }
    check_assignment(random, cases);
    std::printf("%d cases, %d failures\n", cases, failures);
    return failures > 0;
}
