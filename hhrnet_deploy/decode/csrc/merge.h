// The candidates of a joint that several blocks have searched: their lists to one.
#pragma once

#include "layout.h"
#include "peaks.h"

HHRNET_BEGIN

// The sorted lists of a joint's parts, `room` places each.
struct PartLists {
    Candidates from;
    int parts, room, dims;
    float threshold;  // places that are in use are above it

    HHRNET_HD int places() const { return parts * room; }
    HHRNET_HD Peak peak(int place) const { return {from.value[place], from.index[place]}; }
    HHRNET_HD void copy(int place, const Candidates& out, int to) const {
        out.value[to] = from.value[place];
        out.index[to] = from.index[place];
        for (int dim = 0; dim < dims; ++dim) out.tag[to * dims + dim] = from.tag[place * dims + dim];
    }
};

// How many candidates are better than `peak`, found by bisection in several lists at once, whose loads do not
// wait for each other.
HHRNET_HD int count_better(const PartLists& lists, const Peak& peak) {
    constexpr int kAtOnce = 8;
    int count = 0;
    for (int first = 0; first < lists.parts; first += kAtOnce) {
        int before[kAtOnce] = {};
        for (int step = 1 << highest_bit(uint32_t(lists.room)); step > 0; step /= 2) {
            float probe[kAtOnce];
            int place[kAtOnce];
            for (int i = 0; i < kAtOnce; ++i) {
                const bool inside = first + i < lists.parts && before[i] + step <= lists.room;
                place[i] = inside ? (first + i) * lists.room + before[i] + step - 1 : -1;
                probe[i] = lists.from.value[greatest(place[i], 0)];
            }
            for (int i = 0; i < kAtOnce; ++i) {
                bool more = probe[i] > peak.value;
                if (probe[i] == peak.value) more = lists.from.index[greatest(place[i], 0)] < peak.index;
                before[i] += place[i] >= 0 && more ? step : 0;
            }
        }
        for (int i = 0; i < kAtOnce; ++i) count += before[i];
    }
    return count;
}

// Puts the places in use into out.index, as far as there is room, and zeros into the values; returns how many
// are in use. By a team; ends with its barrier.
template <class Team>
HHRNET_HD int gather_used(const Team& team, const PartLists& lists, const Candidates& out) {
    constexpr int kAtOnce = 8;
    int used = 0;
    for (int begin = 0; begin < lists.places(); begin += kAtOnce * team.size()) {
        float value[kAtOnce];
        for (int k = 0; k < kAtOnce; ++k)
            value[k] = lists.from.value[least(begin + k * team.size() + team.rank(), lists.places() - 1)];
        for (int k = 0; k < kAtOnce; ++k) {
            const int place = begin + k * team.size() + team.rank();
            const bool own = place < lists.places() && value[k] > lists.threshold;
            const uint32_t all = team.ballot(own);
            const int to = used + count_bits(all & ((1u << team.rank()) - 1u));
            if (own && to < lists.room) out.index[to] = place;
            used += count_bits(all);
        }
    }
    for (int i = team.rank(); i < lists.room; i += team.size()) out.value[i] = 0.0f;
    team.barrier();
    return used;
}

// Sorts the `used` places of out.index, not more than threads in the team: each thread counts those that are
// better than its own.
template <class Team>
HHRNET_HD void sort_used(const Team& team, const PartLists& lists, int used, const Candidates& out) {
    const int place = out.index[least(team.rank(), greatest(used - 1, 0))];
    const Peak own = used > 0 ? lists.peak(place) : Peak{0.0f, 0};
    int to = 0;
    for (int k = 0; k < used; ++k) to += better({team.from(own.value, k), team.from(own.index, k)}, own);
    team.barrier();  // all have read
    if (team.rank() < used) lists.copy(place, out, to);
}

// The best of all parts, sorted, by a team. Places beyond their number have a value of zero.
template <class Team>
HHRNET_HD void merge_joint(const Team& team, const PartLists& lists, const Candidates& out) {
    const int used = gather_used(team, lists, out);
    if (used <= least(lists.room, team.size())) return sort_used(team, lists, used, out);
    for (int place = team.rank(); place < lists.places(); place += team.size()) {
        if (!(lists.from.value[place] > lists.threshold)) continue;
        const int to = count_better(lists, lists.peak(place));
        if (to < lists.room) lists.copy(place, out, to);
    }
}

// Merges what the parts of each joint found, all of which have `room` places, into as many; a team takes a
// joint. Ends with a barrier.
template <class Group>
HHRNET_HD void merge_parts(const Group& group, const Candidates& from, int joints, int parts, int room,
                           int dims, float threshold, const Candidates& out) {
    const auto team = group.team();
    for (int joint = team.index(); joint < joints; joint += team.count()) {
        const size_t first = size_t(joint) * parts * room, to = size_t(joint) * room;
        const Candidates own = {from.value + first, from.index + first, from.tag + first * dims};
        merge_joint(team, {own, parts, room, dims, threshold},
                    {out.value + to, out.index + to, out.tag + to * dims});
    }
    group.barrier();
}

HHRNET_END
