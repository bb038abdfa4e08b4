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
        if (free != 0) return 32 * i + lowest_bit(free);
    }
    return -1;
}

// given_up: costs that are no numbers; some rows have no star.
enum class AssignStep { make_zero, done, given_up };

struct AssignScratch {
    ColumnMask zeros[kMaxCandidates];
    ColumnMask covered_columns;
    int covered_row[kMaxCandidates];
    int star_in_row[kMaxCandidates], star_in_column[kMaxCandidates],
        prime_in_row[kMaxCandidates];  // -1: none
    double row_least[kMaxCandidates];
    AssignStep step;
};

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
    return AssignStep::given_up;
}

constexpr double kNoValue = 9223372036854775807.0;  // sys.maxsize

// A row by a team: `change` makes the new value of each column, and the zeros among them are kept.
template <class Team, class Change>
HHRNET_HD void change_row(const Team& team, double* values, int n, ColumnMask& zeros, const Change& change) {
    if (team.rank() == 0) zeros.clear();
    for (int first = 0; first < n; first += team.size()) {
        const int column = first + team.rank();
        bool zero = false;
        if (column < n) {
            const double value = change(values[column], column);
            values[column] = value;
            zero = value == 0.0;
        }
        const uint32_t found = team.ballot(zero);
        if (team.rank() == 0) zeros.word[first / 32] |= found << (first % 32);
    }
}

// Fill the rows and take the smallest value of each from it (step 1). A team whose threads hold a whole row
// takes several at once, so that one computes while another waits.
template <class Group, class Cost>
HHRNET_HD void reduce_rows(const Group& group, const Cost& cost_of, double* cost, int n, AssignScratch& s) {
    const auto team = group.team();
    const int column = team.rank();
    constexpr int kAtOnce = 2;
    for (int first = team.index(); n <= team.size() && first < n; first += kAtOnce * team.count()) {
        double values[kAtOnce], smallest[kAtOnce];
        for (int k = 0; k < kAtOnce; ++k) {
            const int row = first + k * team.count();
            values[k] = smallest[k] = column < n && row < n ? cost_of(row, column) : kNoValue;
        }
        for (int mask = team.size() / 2; mask > 0; mask /= 2)
            for (int k = 0; k < kAtOnce; ++k)
                smallest[k] = least(smallest[k], team.exchange(smallest[k], mask));
        for (int k = 0; k < kAtOnce; ++k) {
            const int row = first + k * team.count();
            if (row >= n) break;
            const double value = values[k] - smallest[k];
            if (column < n) cost[row * n + column] = value;
            const uint32_t zeros = team.ballot(column < n && value == 0.0);
            if (column > 0) continue;
            s.zeros[row].clear();
            s.zeros[row].word[0] = zeros;
        }
    }
    for (int row = team.index(); n > team.size() && row < n; row += team.count()) {
        double* values = cost + size_t(row) * n;
        double smallest = kNoValue;
        for (int i = column; i < n; i += team.size()) {
            values[i] = cost_of(row, i);
            smallest = least(smallest, values[i]);
        }
        smallest = team_least(team, smallest);
        change_row(team, values, n, s.zeros[row], [&](double value, int) { return value - smallest; });
    }
    group.barrier();
}

// Add the smallest uncovered value to covered rows, then take it from uncovered columns, both where both
// apply (step 6).
template <class Group>
HHRNET_HD void make_zero(const Group& group, double* cost, int n, AssignScratch& s) {
    const auto team = group.team();
    const ColumnMask covered = s.covered_columns;
    for (int row = team.index(); row < n; row += team.count()) {
        const double* values = cost + size_t(row) * n;
        double smallest = kNoValue;  // of a covered row
        for (int column = team.rank(); column < n && !s.covered_row[row]; column += team.size())
            if (!covered.has(column)) smallest = least(smallest, values[column]);
        smallest = team_least(team, smallest);
        if (team.rank() == 0) s.row_least[row] = smallest;
    }
    group.barrier();
    double smallest = kNoValue;
    for (int row = team.rank(); row < n; row += team.size()) smallest = least(smallest, s.row_least[row]);
    smallest = team_least(team, smallest);
    for (int row = team.index(); row < n; row += team.count()) {
        const double added = s.covered_row[row] ? smallest : 0.0;
        change_row(team, cost + size_t(row) * n, n, s.zeros[row], [&](double value, int column) {
            const double taken = covered.has(column) ? 0.0 : smallest;
            return (value + added) - taken;
        });
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

// Steps 2 to 5 by a team with a thread for each row and column. Thread i holds row i and column i; covered
// rows and columns are bits that all threads have.
template <class Team>
class TeamStars {
  public:
    HHRNET_HD TeamStars(const Team& team, int n, AssignScratch& s)
        : team_(team), n_(n), s_(s), zeros_(team.rank() < n ? s.zeros[team.rank()].word[0] : 0u) {}

    // Row by row as first_stars, all threads alike: what a row takes waits for the rows before it alone.
    HHRNET_HD AssignStep first() {
        const int i = team_.rank();
        constexpr int kAtOnce = 8;  // loads that do not wait for each other
        uint32_t taken = 0, mine = 0;
        for (int first = 0; first < n_; first += kAtOnce) {
            uint32_t zeros[kAtOnce];
            for (int k = 0; k < kAtOnce; ++k) zeros[k] = first + k < n_ ? s_.zeros[first + k].word[0] : 0u;
            for (int k = 0; k < kAtOnce; ++k) {
                const uint32_t free = zeros[k] & ~taken, bit = free & (0u - free);
                taken |= bit;
                mine = i == first + k ? bit : mine;
            }
        }
        if (i < n_) s_.star_in_column[i] = -1;
        team_.barrier();
        if (mine != 0) {
            in_row_ = lowest_bit(mine);
            s_.star_in_column[in_row_] = i;  // for the thread of the column
        }
        team_.barrier();
        if (i < n_) in_column_ = s_.star_in_column[i];
        return cover() ? AssignStep::done : prime();
    }

    // Goes on after make_zero.
    HHRNET_HD AssignStep resume() {
        const int i = team_.rank();
        if (i < n_) {
            in_row_ = s_.star_in_row[i];
            in_column_ = s_.star_in_column[i];
            prime_ = s_.prime_in_row[i];
        }
        covered_columns_ = s_.covered_columns.word[0];
        covered_rows_ = team_.ballot(i < n_ && s_.covered_row[i]);
        return prime();
    }

    HHRNET_HD void store(AssignStep step) {
        const int i = team_.rank();
        if (i < n_) {
            s_.star_in_row[i] = in_row_;
            s_.star_in_column[i] = in_column_;
            s_.prime_in_row[i] = prime_;
            s_.covered_row[i] = covered_rows_ >> i & 1u;
        }
        if (i == 0) {
            s_.covered_columns.clear();
            s_.covered_columns.word[0] = covered_columns_;
            s_.step = step;
        }
    }

  private:
    HHRNET_HD uint32_t all() const { return n_ == 32 ? 0xffffffffu : (1u << n_) - 1u; }

    HHRNET_HD void star(int row, int column) {
        if (team_.rank() == row) in_row_ = column;
        if (team_.rank() == column) in_column_ = row;
    }

    HHRNET_HD bool cover() {
        covered_rows_ = 0;
        prime_ = -1;
        covered_columns_ = team_.ballot(in_column_ >= 0);
        return covered_columns_ == all();
    }

    HHRNET_HD void flip(int row, int column) {
        for (int length = 0; length < n_; ++length) {
            const int starred = team_.from(in_column_, column);
            star(row, column);
            if (starred < 0) return;
            row = starred;
            column = clamped(team_.from(prime_, row), 0, n_ - 1);
        }
    }

    HHRNET_HD AssignStep prime() {
        const int i = team_.rank();
        int row = 0, column = 0;
        for (int found = 0; found <= n_ * (n_ + 1); ++found) {
            const uint32_t open = i < n_ && !(covered_rows_ >> i & 1u) ? zeros_ & ~covered_columns_ : 0u;
            const uint32_t below = open & ((1u << column) - 1u);
            const uint32_t rows = team_.ballot(open != 0);
            if (rows == 0) return AssignStep::make_zero;
            const uint32_t onward = rows >> row << row;
            row = lowest_bit(onward != 0 ? onward : rows);
            const int zero = team_.from(highest_bit(below != 0 ? below : open | 1u), row);
            if (i == row) prime_ = zero;
            const int star = team_.from(in_row_, row);
            if (star >= 0) {
                column = star;
                covered_rows_ |= 1u << row;
                covered_columns_ &= ~(1u << star);
                continue;
            }
            flip(row, zero);
            if (cover()) return AssignStep::done;
            row = column = 0;
        }
        return AssignStep::given_up;
    }

    const Team& team_;
    int n_;
    AssignScratch& s_;
    uint32_t zeros_;
    uint32_t covered_rows_ = 0, covered_columns_ = 0;
    int in_row_ = -1, in_column_ = -1, prime_ = -1;
};

// Steps 2 to 5, by the first team or, where it is too small, by one thread. Ends with a barrier.
template <class Group>
HHRNET_HD void star_zeros(const Group& group, int n, bool first, AssignScratch& s) {
    const auto team = group.team();
    if (!Group::single && n <= team.size()) {
        if (team.index() == 0) {
            TeamStars stars(team, n, s);
            stars.store(first ? stars.first() : stars.resume());
        }
    } else if (group.rank() == 0) {
        if (first) first_stars(n, s);
        s.step = first && cover_stars(n, s) ? AssignStep::done : prime_zeros(n, s);
    }
    group.barrier();
}

// Assigns the columns of the n x n matrix of cost_of(row, column) to its rows: s.star_in_row. `cost` is
// scratch for n * n values. Ends with a barrier.
template <class Group, class Cost>
HHRNET_HD void assign(const Group& group, const Cost& cost_of, double* cost, int n, AssignScratch& s) {
    reduce_rows(group, cost_of, cost, n, s);
    star_zeros(group, n, true, s);
    // Each round covers another row or, n times at most, adds a star.
    for (int round = 0; s.step == AssignStep::make_zero && round < n * (n + 1); ++round) {
        make_zero(group, cost, n, s);
        star_zeros(group, n, false, s);
    }
    if (s.step == AssignStep::done) return;
    if (group.rank() == 0) complete_stars(n, s);
    group.barrier();
}

HHRNET_END
