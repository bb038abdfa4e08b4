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

constexpr int kMaxTeam = 32;

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
    // The least of what all passed, and the bits that any passed.
    HHRNET_HD uint32_t least_of(uint32_t value) const { return value; }
    HHRNET_HD uint32_t any_of(uint32_t value) const { return value; }
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

// Two words in the order of the doubles they are made of: `high` decides, where it is equal `low`.
struct OrderedWords {
    uint32_t high, low;

    HHRNET_HD static OrderedWords of(double value) {
        uint64_t bits;
        __builtin_memcpy(&bits, &value, sizeof bits);
        const uint32_t high = uint32_t(bits >> 32), low = uint32_t(bits);
        const uint32_t negative = 0u - (high >> 31);
        return {high ^ (negative | 0x80000000u), low ^ negative};
    }
    HHRNET_HD double value() const {
        const uint32_t negative = (high >> 31) - 1u;
        const uint64_t bits = uint64_t(high ^ (negative | 0x80000000u)) << 32 | (low ^ negative);
        double value;
        __builtin_memcpy(&value, &bits, sizeof value);
        return value;
    }
};

// The least of what all threads of a team passed, for several values that do not wait for each other.
template <class Team, int count>
HHRNET_HD void team_least(const Team& team, double (&values)[count]) {
    OrderedWords words[count];
    uint32_t high[count], low[count];
    for (int i = 0; i < count; ++i) words[i] = OrderedWords::of(values[i]);
    for (int i = 0; i < count; ++i) high[i] = team.least_of(words[i].high);
    for (int i = 0; i < count; ++i)
        low[i] = team.least_of(words[i].high == high[i] ? words[i].low : 0xffffffffu);
    for (int i = 0; i < count; ++i) values[i] = OrderedWords{high[i], low[i]}.value();
}

template <int count>
HHRNET_HD void team_least(const Solo&, double (&)[count]) {}

template <class Team>
HHRNET_HD double team_least(const Team& team, double value) {
    double values[1] = {value};
    team_least(team, values);
    return values[0];
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
