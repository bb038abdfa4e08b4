// The threads that run one step together: a rank, a size, a barrier, and two atomic operations.
//
// On the GPU a block, on the CPU a group of one whose loops the compiler vectorises, in the tests N real
// threads. A step writes `for (i = group.rank(); i < n; i += group.size())` and puts a barrier between
// writing and reading.
#pragma once

#include "platform.h"

HHRNET_BEGIN

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
    HHRNET_HD void raise(unsigned long long* place, unsigned long long value) const {
        if (*place < value) *place = value;
    }
    // Reads what `raise` may be changing.
    HHRNET_HD unsigned long long peek(const unsigned long long* place) const { return *place; }
};

HHRNET_END
