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
    uint32_t word = 0;
    for (int first = 0; first < n; first += team.size()) {
        const int column = first + team.rank(), end = first + team.size();
        bool zero = false;
        if (column < n) {
            const double value = change(values[column], column);
            values[column] = value;
            zero = value == 0.0;
        }
        word |= team.ballot(zero) << (first % 32);
        if (end % 32 != 0 && end < n) continue;
        if (team.rank() == 0) zeros.word[first / 32] = word;
        word = 0;
    }
    for (int i = (n - 1) / 32 + 1 + team.rank(); i < kMaskWords; i += team.size()) zeros.word[i] = 0;
}

// Whether each thread of a team has a column of its own: then it takes several rows at once, so that one
// computes while another waits.
template <class Group>
HHRNET_HD bool is_narrow(const Group& group, int n) {
    return !Group::single && n <= group.team().size();
}
constexpr int kRowsAtOnce = 2;

// Fill the rows and take the smallest value of each from it (step 1). cost_of(column)(row) is a value.
template <class Group, class Cost>
HHRNET_HD void reduce_rows(const Group& group, const Cost& cost_of, double* cost, int n, AssignScratch& s) {
    const auto team = group.team();
    if (is_narrow(group, n)) {
        const int column = team.rank();
        const auto cost_in = cost_of(least(column, n - 1));
        for (int first = team.index(); first < n; first += kRowsAtOnce * team.count()) {
            double values[kRowsAtOnce], smallest[kRowsAtOnce];
            for (int k = 0; k < kRowsAtOnce; ++k)
                values[k] = smallest[k] = cost_in(least(first + k * team.count(), n - 1));
            team_least(team, smallest);
            for (int k = 0; k < kRowsAtOnce; ++k) {
                const int row = first + k * team.count();
                if (row >= n) break;
                const double value = values[k] - smallest[k];
                if (column < n) cost[row * n + column] = value;
                const uint32_t zeros = team.ballot(column < n && value == 0.0);
                if (column == 0) s.zeros[row].word[0] = zeros;
            }
        }
        group.barrier();
        return;
    }
    for (int row = team.index(); row < n; row += team.count()) {
        double* values = cost + size_t(row) * n;
        double smallest = kNoValue;
        for (int column = team.rank(); column < n; column += team.size()) {
            values[column] = cost_of(column)(row);
            smallest = least(smallest, values[column]);
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
    const ColumnMask& covered = s.covered_columns;
    for (int first = team.index(); first < n; first += kRowsAtOnce * team.count()) {
        double least_open[kRowsAtOnce];  // of a covered row no value
        for (int k = 0; k < kRowsAtOnce; ++k) {
            const int row = first + k * team.count();
            const bool open = row < n && !s.covered_row[row];
            least_open[k] = kNoValue;
            for (int column = team.rank(); open && column < n; column += team.size())
                if (!covered.has(column))
                    least_open[k] = least(least_open[k], cost[size_t(row) * n + column]);
        }
        team_least(team, least_open);
        for (int k = 0; k < kRowsAtOnce; ++k)
            if (team.rank() == 0 && first + k * team.count() < n)
                s.row_least[first + k * team.count()] = least_open[k];
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
    static constexpr int kColumnBits = 5;

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
};

// Steps 2 to 5 by the first team, in a matrix that is not narrow by one thread of it. Returns whether there
// is more to do: step 6 and these again. Ends with a barrier of the team.
template <class Group, class Team>
HHRNET_HD bool star_zeros(const Group& group, const Team& team, int n, int round, AssignScratch& s) {
    if (is_narrow(group, n)) {
        TeamStars stars(team, n, s);
        stars.store(round == 0 ? stars.first() : stars.resume());
    } else if (team.rank() == 0) {
        if (round == 0) first_stars(n, s);
        s.step = round == 0 && cover_stars(n, s) ? AssignStep::done : prime_zeros(n, s);
    }
    team.barrier();
    if (s.step == AssignStep::done) return false;
    // Each round covers another row or, n times at most, adds a star.
    if (s.step == AssignStep::make_zero && round < n * (n + 1)) return true;
    team.barrier();  // all know
    if (team.rank() == 0) {
        s.step = AssignStep::given_up;
        complete_stars(n, s);
    }
    team.barrier();
    return false;
}

// Assigns the columns of the n x n matrix of cost_of(column)(row) to its rows: s.star_in_row. Then the first
// team goes on with `then`, while the others wait. `cost` is scratch for n * n values; with an n of 0 there
// is nothing to assign. Ends with a barrier.
template <class Group, class Cost, class Then>
HHRNET_HD void assign(const Group& group, const Cost& cost_of, double* cost, int n, AssignScratch& s,
                      const Then& then) {
    if (n > 0)
        reduce_rows(group, cost_of, cost, n, s);
    else
        group.barrier();
    for (int round = 0;; ++round) {
        const auto team = group.team();
        if (team.index() == 0 && !(n > 0 && star_zeros(group, team, n, round, s))) then(team);
        group.barrier();
        if (n == 0 || s.step != AssignStep::make_zero) return;
        make_zero(group, cost, n, s);
    }
}

HHRNET_END
