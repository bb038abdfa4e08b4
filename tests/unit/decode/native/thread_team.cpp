// Decodes random cases by a group of N threads with a barrier and compares every bit with the group of one.
// Built with -fsanitize=thread a missing barrier is a reported race. Arguments: threads, cases, seed.
#include <cstdio>
#include <cstdlib>

#include "random_heads.h"
#include "together.h"

using namespace hhrnet;
using testing::Case;
using testing::Random;

struct TeamMember {
    static constexpr bool single = false;
    int rank_, size_;
    Meeting* meeting_;

    int rank() const { return rank_; }
    int size() const { return size_; }
    void barrier() const { meeting_->wait(); }
    int add(int* counter, int amount) const { return __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED); }
    unsigned long long raise(unsigned long long* place, unsigned long long value) const {
        unsigned long long seen = __atomic_load_n(place, __ATOMIC_RELAXED);
        while (seen < value &&
               !__atomic_compare_exchange_n(place, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
        return seen;
    }
    Solo team() const { return {rank_, size_}; }
};

static void decode_as_member(const TeamMember& member, const ImageRequest& r, const Workspace& w,
                             int* people) {
    const Projection p = projection_of(r, w);
    const TagMaps tags = tag_maps_of(r, w);
    constexpr int bands = 3;
    for (int s = 0; s < r.scales; ++s)
        for (int joint = 0; joint < r.joints; ++joint)
            for (int band = 0; band < bands; ++band)
                aggregate_band(member, heads_of(r.scale[s], r.joints), joint, r.flip_index[joint], band,
                               bands, output_of(r, w, s, joint));
    member.barrier();
    for (int joint = 0; joint < r.joints; ++joint) find_joint_peaks(member, r, w, p, tags, joint);
    const int count = people_of(member, r, w, p, tags);
    if (member.rank() == 0) *people = count;
}

static ImageResult decode_by_team(const ImageRequest& r, void* memory, int size) {
    const Workspace w = carve(r, memory);
    Meeting meeting;
    meeting.expect(unsigned(size));
    int people = -1;
    Together::run(unsigned(size),
                  [&](unsigned rank) { decode_as_member({int(rank), size, &meeting}, r, w, &people); });
    return {w.people.keypoints, w.people.scores, w.people.joint_tags, people, 0};
}

static bool same_bits(const float* a, const float* b, size_t count) {
    return std::memcmp(a, b, 4 * count) == 0;
}

int main(int argc, char** argv) {
    const int size = argc > 1 ? std::atoi(argv[1]) : 7, cases = argc > 2 ? std::atoi(argv[2]) : 20;
    Random random(argc > 3 ? uint64_t(std::atoi(argv[3])) : 1);
    long people = 0;
    for (int i = 0; i < cases; ++i) {
        Case alone(random);
        const ImageResult one = decode_image(alone.request, alone.workspace());
        const auto kept = std::move(alone.block);
        const ImageResult team = decode_by_team(alone.request, alone.workspace(), size);
        const size_t joints = size_t(alone.request.joints), count = size_t(one.count);
        if (one.unusable || one.count != team.count ||
            !same_bits(one.keypoints, team.keypoints, count * joints * 3) ||
            !same_bits(one.scores, team.scores, count) ||
            !same_bits(one.joint_tags, team.joint_tags, count * joints * size_t(alone.request.dims))) {
            std::printf("case %d: a group of %d finds other people (%d, alone %d)\n", i, size, team.count,
                        one.count);
            return 1;
        }
        people += one.count;
    }
    std::printf("%d cases, %ld people, a group of %d equals a group of one\n", cases, people, size);
    return people > 0 ? 0 : 1;
}
