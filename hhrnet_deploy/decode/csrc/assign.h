// Optimal assignment with the tie order of the Python package munkres 1.1.4 (Brian M. Clapper, Apache
// License 2.0): the matrix is visited in the same order with the same float64 operations, so the same pairs
// come out (decode/reference/assignment.py is the readable version). Rows of zeros are kept as bit masks,
// which makes the search for an uncovered zero a few operations per row.
#pragma once

#include "layout.h"
#include "thread_group.h"

HHRNET_BEGIN

constexpr int kMaskWords = (kMaxCandidates + 31) / 32;

// A set of columns.
struct ColumnMask {
    uint32_t word[kMaskWords];

    HHRNET_HD void clear() {
        for (int i = 0; i < kMaskWords; ++i) word[i] = 0;
    }
    HHRNET_HD bool has(int column) const { return word[column / 32] >> (column % 32) & 1u; }
    HHRNET_HD void set(int column) { word[column / 32] |= 1u << (column % 32); }
    HHRNET_HD void unset(int column) { word[column / 32] &= ~(1u << (column % 32)); }
};

HHRNET_HD int highest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
    return 31 - __clz(int(word));
#else
    return 31 - __builtin_clz(word);
#endif
}

// The last column of (zeros without covered) below `limit`, or -1.
HHRNET_HD int last_free(const ColumnMask& zeros, const ColumnMask& covered, int limit) {
    for (int i = kMaskWords - 1; i >= 0; --i) {
        uint32_t free = zeros.word[i] & ~covered.word[i];
        const int below = limit - 32 * i;
        if (below <= 0) continue;
        if (below < 32) free &= (1u << below) - 1u;
        if (free != 0) return 32 * i + highest_bit(free);
    }
    return -1;
}

// The first column of (zeros without covered), or -1.
HHRNET_HD int first_free(const ColumnMask& zeros, const ColumnMask& covered) {
    for (int i = 0; i < kMaskWords; ++i) {
        const uint32_t free = zeros.word[i] & ~covered.word[i];
        if (free != 0) return 32 * i + highest_bit(free & (0u - free));
    }
    return -1;
}

enum class AssignStep { make_zero, done };

struct AssignScratch {
    ColumnMask zeros[kMaxCandidates];
    ColumnMask covered_columns;
    int covered_row[kMaxCandidates];
    int star_in_row[kMaxCandidates], star_in_column[kMaxCandidates],
        prime_in_row[kMaxCandidates];  // -1: none
    double row_least[kMaxCandidates];
    AssignStep step;
    int rounds;
};

HHRNET_HD void find_zeros(const double* row, int n, ColumnMask& zeros) {
    zeros.clear();
    for (int column = 0; column < n; ++column)
        if (row[column] == 0.0) zeros.set(column);
}

// Star the first zero of each row whose column has none yet (munkres step 2).
HHRNET_HD void first_stars(int n, AssignScratch& s) {
    s.covered_columns.clear();
    for (int i = 0; i < n; ++i) s.star_in_row[i] = s.star_in_column[i] = s.prime_in_row[i] = -1;
    for (int row = 0; row < n; ++row) {
        const int column = first_free(s.zeros[row], s.covered_columns);
        if (column < 0) continue;
        s.star_in_row[row] = column;
        s.star_in_column[column] = row;
        s.covered_columns.set(column);
    }
}

// Cover the columns with a star, uncover the rows; true when every column is covered (step 3).
HHRNET_HD bool cover_stars(int n, AssignScratch& s) {
    s.covered_columns.clear();
    int count = 0;
    for (int i = 0; i < n; ++i) {
        s.covered_row[i] = 0;
        s.prime_in_row[i] = -1;
        if (s.star_in_column[i] < 0) continue;
        s.covered_columns.set(i);
        ++count;
    }
    return count == n;
}

// Star the primes and unstar the stars of the path that begins at (row, column) (step 5).
HHRNET_HD void flip_path(int n, int row, int column, AssignScratch& s) {
    for (int length = 0; length < n; ++length) {
        const int starred_row = s.star_in_column[column];
        s.star_in_row[row] = column;
        s.star_in_column[column] = row;
        if (starred_row < 0) return;
        row = starred_row;
        column = clamped(s.prime_in_row[row], 0, n - 1);
    }
}

// Prime uncovered zeros (step 4) and flip paths (step 5) until all rows have a star or no uncovered zero is
// left.
HHRNET_HD AssignStep prime_zeros(int n, AssignScratch& s) {
    int row = 0, column = 0, none = 0;
    // Each zero found covers a row or adds a star, so n*(n+1) of them are enough; garbage costs must not loop
    // for ever.
    for (int found = 0; found <= n * (n + 1);) {
        if (none == n) return AssignStep::make_zero;
        const int zero = s.covered_row[row] ? -1 : [&] {
            const int wrapped = last_free(s.zeros[row], s.covered_columns, column);
            return wrapped >= 0 ? wrapped : last_free(s.zeros[row], s.covered_columns, n);
        }();
        if (zero < 0) {
            row = row + 1 == n ? 0 : row + 1;
            ++none;
            continue;
        }
        ++found;
        none = 0;
        s.prime_in_row[row] = zero;
        const int star = s.star_in_row[row];
        if (star >= 0) {
            column = star;
            s.covered_row[row] = 1;
            s.covered_columns.unset(star);
            continue;
        }
        flip_path(n, row, zero, s);
        if (cover_stars(n, s)) return AssignStep::done;
        row = column = 0;
    }
    return AssignStep::done;
}

// The smallest value of a row in uncovered columns; a covered row has none.
HHRNET_HD double least_uncovered(const double* row, int n, const ColumnMask& covered) {
    double smallest = 9223372036854775807.0;  // sys.maxsize
    for (int column = 0; column < n; ++column)
        if (!covered.has(column) && smallest > row[column]) smallest = row[column];
    return smallest;
}

// Add the smallest uncovered value to covered rows, then take it from uncovered columns, both where both
// apply (step 6).
template <class Group>
HHRNET_HD void make_zero(const Group& group, double* cost, int n, AssignScratch& s) {
    for (int row = group.rank(); row < n; row += group.size())
        s.row_least[row] = s.covered_row[row] ? 9223372036854775807.0
                                              : least_uncovered(cost + size_t(row) * n, n, s.covered_columns);
    group.barrier();
    double smallest = s.row_least[0];
    for (int row = 1; row < n; ++row) smallest = least(smallest, s.row_least[row]);
    for (int row = group.rank(); row < n; row += group.size()) {
        double* values = cost + size_t(row) * n;
        const double added = s.covered_row[row] ? smallest : 0.0;
        for (int column = 0; column < n; ++column) {
            const double taken = s.covered_columns.has(column) ? 0.0 : smallest;
            values[column] = (values[column] + added) - taken;
        }
        find_zeros(values, n, s.zeros[row]);
    }
    group.barrier();
}

// Gives rows that are still without a star, which only garbage costs leave, any free column.
HHRNET_HD void complete_stars(int n, AssignScratch& s) {
    int column = 0;
    for (int row = 0; row < n; ++row) {
        if (s.star_in_row[row] >= 0) continue;
        while (column < n - 1 && s.star_in_column[column] >= 0) ++column;
        s.star_in_row[row] = column;
        s.star_in_column[column] = row;
    }
}

// Assigns the columns of the n x n matrix `cost`, which is used up, to its rows: s.star_in_row. Ends with a
// barrier.
template <class Group>
HHRNET_HD void assign(const Group& group, double* cost, int n, AssignScratch& s) {
    for (int row = group.rank(); row < n; row += group.size()) {
        double* values = cost + size_t(row) * n;
        double smallest = values[0];
        for (int column = 1; column < n; ++column) smallest = least(smallest, values[column]);
        for (int column = 0; column < n; ++column) values[column] -= smallest;
        find_zeros(values, n, s.zeros[row]);
    }
    group.barrier();
    if (group.rank() == 0) {
        first_stars(n, s);
        s.step = cover_stars(n, s) ? AssignStep::done : prime_zeros(n, s);
    }
    group.barrier();
    // Each round covers another row or, n times at most, adds a star.
    for (int round = 0; s.step == AssignStep::make_zero && round < n * (n + 1); ++round) {
        make_zero(group, cost, n, s);
        if (group.rank() == 0) s.step = prime_zeros(n, s);
        group.barrier();
    }
    if (group.rank() == 0) complete_stars(n, s);
    group.barrier();
}

HHRNET_END
