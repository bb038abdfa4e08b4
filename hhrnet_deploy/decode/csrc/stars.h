// Steps 2 to 5 of an optimal assignment, those that look only at which costs are zero: stars, primes and
// covers. Rows of zeros are kept as bit masks, which makes the search for an uncovered zero a few operations
// per row. By one thread, and by a team with a thread for each row and column. assign.h has the other steps.
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
    static constexpr int kColumnBits = 5;
    static constexpr uint32_t kNoCost = 0x7fffffffu;  // far from 0 and from any cost, also some rounds later

  public:
    HHRNET_HD TeamStars(const Team& team, int n, AssignScratch& s)
        : team_(team), n_(n), s_(s), zeros_(team.rank() < n ? s.zeros[team.rank()].word[0] : 0u) {}

    // What first_stars does row by row, for all rows at once that no row before them is in the way of.
    HHRNET_HD AssignStep first() {
        const int i = team_.rank();
        // Rows of zeros alone are the last ones where people are more than candidates: they take what is
        // left.
        const uint32_t others = team_.ballot(i < n_ && zeros_ != all());
        const int chosen = others == 0 ? 0 : highest_bit(others) + 1;
        uint32_t open = chosen == 32 ? 0xffffffffu : (1u << chosen) - 1u, taken = 0;
        while (open != 0) {
            const uint32_t free = open >> i & 1u ? zeros_ & ~taken : 0u;
            const int column = free != 0 ? lowest_bit(free) : -1;
            const uint32_t rows = proposing(column);  // this thread's column
            const int first = rows != 0 ? lowest_bit(rows) : -1;
            const int winner = team_.from(first, column);
            const uint32_t refused = team_.ballot(free != 0 && winner != i);
            const uint32_t decided =
                (refused & (0u - refused)) - 1u;  // the rows before the first refused one
            if (free != 0 && decided >> i & 1u) in_row_ = column;
            const bool settled = rows != 0 && decided >> first & 1u;
            if (settled) in_column_ = first;
            taken |= team_.ballot(settled);
            open &= ~decided;
        }
        if (chosen < n_) {
            const uint32_t left = all() & ~taken;
            const int row = chosen + count_bits(left & ((1u << i) - 1u));
            if ((left >> i & 1u) && row < n_) {
                in_column_ = row;
                s_.star_in_row[row] = i;
            }
            team_.barrier();
            if (i >= chosen && i < n_) in_row_ = s_.star_in_row[i];
            team_.barrier();
        }
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
        team_.barrier();  // all have read what store writes
        return prime();
    }

    // Before the first make_zero: whole costs, rows of kMaxTeam, of which each thread keeps its column.
    HHRNET_HD void read(const int* costs) {
        const int i = team_.rank();
        HHRNET_UNROLL_ALL
        for (int row = 0; row < kMaxTeam; ++row)
            costs_[row] = i < n_ && row < n_ ? uint32_t(costs[row * kMaxTeam + i]) : kNoCost;
    }

    // Step 6 on whole costs, then 4 and 5.
    HHRNET_HD AssignStep make_zero() {
        const bool covered = covered_columns_ >> team_.rank() & 1u;
        uint32_t least_open[4] = {kNoCost, kNoCost, kNoCost,
                                  kNoCost};  // so that none waits for the one before
        HHRNET_UNROLL_ALL
        for (int row = 0; row < kMaxTeam; ++row) {
            const uint32_t cost = covered_rows_ >> row & 1u ? kNoCost : costs_[row];
            least_open[row % 4] = least(least_open[row % 4], cost);
        }
        const uint32_t open = least(least(least_open[0], least_open[1]), least(least_open[2], least_open[3]));
        const uint32_t smallest = team_.least_of(covered ? kNoCost : open), taken = covered ? 0u : smallest;
        HHRNET_UNROLL_ALL
        for (int row = 0; row < kMaxTeam; ++row) {
            costs_[row] += (covered_rows_ >> row & 1u ? smallest : 0u) - taken;
            const uint32_t zeros = team_.ballot(costs_[row] == 0);
            zeros_ = team_.rank() == row ? zeros : zeros_;
        }
        return prime();
    }

    // The columns of this thread's row that are zero, and the one that the row has a star in; -1: none yet.
    HHRNET_HD uint32_t zeros() const { return zeros_; }
    HHRNET_HD int column() const { return in_row_; }

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
    // The rows that propose the column of this thread, when each proposes `column`; -1 is none.
    HHRNET_HD uint32_t proposing(int column) const {
        uint32_t rows = team_.ballot(column >= 0);
        for (int b = 0; b < kColumnBits; ++b) {
            const uint32_t set = team_.ballot(column & 1 << b);
            rows &= team_.rank() & 1 << b ? set : ~set;
        }
        return rows;
    }

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
        const uint32_t mine = 1u << team_.rank();
        uint32_t onward = ~0u, below = 0;  // rows from the last zero's on, columns before its star's
        for (int found = 0; found <= n_ * (n_ + 1); ++found) {
            const uint32_t open = covered_rows_ & mine ? 0u : zeros_ & ~covered_columns_;
            const uint32_t rows = team_.ballot(open != 0);
            if (rows == 0) return AssignStep::make_zero;
            const uint32_t next = rows & onward ? rows & onward : rows, chosen = next & (0u - next);
            const uint32_t columns = open & below ? open & below : open;
            const int row = highest_bit(chosen);
            const int both = team_.from(highest_bit(columns | 1u) + in_row_ * 256, row);
            const int zero = both & 0xff, star = both >> 8;
            if (chosen & mine) prime_ = zero;
            if (star >= 0) {
                const uint32_t bit = 1u << star;
                onward = 0u - chosen;
                below = bit - 1u;
                covered_rows_ |= chosen;
                covered_columns_ &= ~bit;
                continue;
            }
            flip(row, zero);
            if (cover()) return AssignStep::done;
            onward = ~0u;
            below = 0;
        }
        return AssignStep::given_up;
    }

    const Team& team_;
    int n_;
    AssignScratch& s_;
    uint32_t zeros_;
    uint32_t covered_rows_ = 0, covered_columns_ = 0;
    int in_row_ = -1, in_column_ = -1, prime_ = -1;
    uint32_t costs_[kMaxTeam];
};

HHRNET_END
