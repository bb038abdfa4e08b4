// NumPy's float32 means: the order of additions decides bits (decode/reference/means.py).
#pragma once

#include "platform.h"

HHRNET_BEGIN

// The mean of n values, n from 1 to 128, `at(i)` giving each: eight interleaved partial sums from eight
// values on.
template <class At>
HHRNET_HD float mean_of_vector(int n, const At& at) {
    const int whole = n - n % 8;
    float total = 0.0f;
    if (whole > 0) {
        float lane[8];
        for (int i = 0; i < 8; ++i) lane[i] = at(i);
        for (int start = 8; start < whole; start += 8)
            for (int i = 0; i < 8; ++i) lane[i] += at(start + i);
        total = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
    for (int i = whole; i < n; ++i) total += at(i);
    return total / float(n);
}

HHRNET_END
