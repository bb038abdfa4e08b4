// The threads that run one step together: a rank, a size, a barrier an atomic addition and an atomic maximum.
//
// On the GPU a block, on the CPU a group of one whose loops the compiler vectorises, in the tests N real
// threads. A step writes `for (i = group.rank(); i < n; i += group.size())` and puts a barrier between
// writing and reading.
//
// A group consists of teams of equal size, a power of two up to 32, that work on without the others: warps on
// the GPU. The threads of a team hand each other values; all of them have to make each of these calls.
#pragma once

#include "platform.h"

HHRNET_BEGIN

// A team of one thread.
struct Solo {
    int index_ = 0, count_ = 1;

    HHRNET_HD int rank() const { return 0; }
    HHRNET_HD int size() const { return 1; }
    HHRNET_HD int index() const { return index_; }  // among the teams of its group
    HHRNET_HD int count() const { return count_; }
    HHRNET_HD void barrier() const {}
    // What the thread with rank ^ mask, or with that rank, passed.
    template <class T>
    HHRNET_HD T exchange(T value, int) const {
        return value;
    }
    template <class T>
    HHRNET_HD T from(T value, int) const {
        return value;
    }
    // Bit i is what the thread with rank i passed.
    HHRNET_HD uint32_t ballot(bool value) const { return value; }
};

struct SingleThread {
    static constexpr bool single = true;
    HHRNET_HD int rank() const { return 0; }
    HHRNET_HD int size() const { return 1; }
    HHRNET_HD void barrier() const {}
    // Adds and returns the value before.
    HHRNET_HD int add(int* counter, int amount) const {
        int before = *counter;
        *counter += amount;
        return before;
    }
    // Sets a larger value and returns the one before.
    HHRNET_HD unsigned long long raise(unsigned long long* place, unsigned long long value) const {
        const unsigned long long before = *place;
        *place = greatest(before, value);
        return before;
    }
    HHRNET_HD Solo team() const { return {}; }
};

template <class Team, class T>
HHRNET_HD T team_least(const Team& team, T value) {
    for (int mask = team.size() / 2; mask > 0; mask /= 2) value = least(value, team.exchange(value, mask));
    return value;
}

template <class Team, class T>
HHRNET_HD T team_greatest(const Team& team, T value) {
    for (int mask = team.size() / 2; mask > 0; mask /= 2) value = greatest(value, team.exchange(value, mask));
    return value;
}

HHRNET_HD int highest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
    return 31 - __clz(int(word));
#else
    return 31 - __builtin_clz(word);
#endif
}

HHRNET_HD int count_bits(uint32_t word) {
#if defined(__CUDA_ARCH__)
    return __popc(word);
#else
    return __builtin_popcount(word);
#endif
}

HHRNET_HD int lowest_bit(uint32_t word) { return highest_bit(word & (0u - word)); }

HHRNET_END
