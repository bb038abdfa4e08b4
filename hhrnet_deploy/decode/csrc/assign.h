// Optimal assignment with the tie order of the Python package munkres 1.1.4 (Brian M. Clapper, Apache
// License 2.0): the matrix is visited in the same order with the same float64 operations, so the same pairs
// come out (decode/reference/assignment.py is the readable version). Here are the steps that change costs,
// and the whole; the others are in stars.h.
#pragma once

#include "stars.h"

HHRNET_BEGIN

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
