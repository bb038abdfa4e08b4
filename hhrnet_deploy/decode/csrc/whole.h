// The costs of a joint as whole numbers. A cost is 100 * rint(distance) - value, and a row begins with its
// least cost taken away. Where every value is of usual size and every distance short, float64 rounds nowhere:
// what is left are multiples of 100, and the assignment in int32 hundreds meets the same zeros in the same
// order.
#pragma once

#include "assign.h"
#include "distance.h"

HHRNET_BEGIN

// 500,100 - value needs 19 bits before the point and 33 behind it; float64 has 53.
constexpr float kLongestWhole = 5000.0f, kLeastValue = 1.0f / 1024.0f, kValueLimit = 1024.0f;

// Candidates, the rows, and people, the columns; `considered` of them, not fewer than the candidates.
struct WholeCosts {
    const float *value, *tag;
    const Tag* person_tag;
    int found, considered, dims;
    double squared_threshold;
    int* cost;       // (considered, kMaxTeam), with rows of zeros at the end
    uint32_t* near;  // of each row: the people whose tag is within the threshold
};

// Fills costs, zeros and `near`, a row by each team. A row that does not fit has no zeros. Ends with a
// barrier.
template <class Group>
HHRNET_HD void reduce_whole(const Group& group, const WholeCosts& c, AssignScratch& s) {
    const auto team = group.team();
    const int n = c.considered, column = team.rank();
    const bool inside = column < n;
    const Tag person = c.person_tag[least(column, n - 1)];
    const Nearness nearness(c.squared_threshold);
    for (int row = team.index(); row < n; row += team.count()) {
        const bool real = row < c.found;
        int cost = 0;
        uint32_t zeros = team.ballot(inside), near = 0;
        if (real) {  // the same for all of the team
            const float value = c.value[row];
            const Tag own = Tag::read(c.tag + row * c.dims, c.dims);
            const float square = quick_square(own, person, c.dims);
            const RoundedDistance quick(square);
            const bool fits = value >= kLeastValue && value < kValueLimit && quick.whole <= kLongestWhole;
            bool is_near = square < nearness.middle;
            float whole = quick.whole;
            if (!quick.sure || !nearness.sure(square)) {
                const double exact = squared_distance(own, person, c.dims);
                is_near = exact < nearness.limit;
                whole = float(rint(sqrt(exact)));
            }
            const uint32_t distance = fits ? uint32_t(whole) : 0u;
            cost = int(distance - team.least_of(inside ? distance : 0xffffffffu));
            zeros = team.ballot(inside && cost == 0);
            near = team.ballot(inside && is_near);
            if (team.ballot(inside && !fits) != 0) zeros = 0;
        }
        if (inside) c.cost[row * kMaxTeam + column] = cost;
        if (column == 0) s.zeros[row].word[0] = zeros;
        if (column == 0) c.near[row] = near;
    }
    group.barrier();
}

// Assigns by one team: `column` becomes the person of the candidate that is this thread's. False, the same
// for all, where a row does not fit.
template <class Team>
HHRNET_HD bool assign_whole(const Team& team, const WholeCosts& c, AssignScratch& s, int& column) {
    const int n = c.considered;
    TeamStars stars(team, n, s);
    // Mostly each candidate finds a nearest person that no other takes; rows of zeros take what is left.
    const uint32_t zeros = team.rank() < c.found ? stars.zeros() : 0u, first = zeros & (0u - zeros);
    column = highest_bit(first);
    if (count_bits(team.any_of(first)) == c.found) return true;
    if (team.ballot(team.rank() < n && stars.zeros() == 0) != 0) return false;
    AssignStep step = stars.first();
    if (step == AssignStep::make_zero) stars.read(c.cost);
    for (int round = 0; step == AssignStep::make_zero && round < n * (n + 1); ++round)
        step = stars.make_zero();
    column = stars.column();
    return step == AssignStep::done;
}

HHRNET_END
