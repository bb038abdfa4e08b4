// Step 9: grouping candidates into people by associative embedding (group.py:25-96), one image at a time.
#pragma once

#include "assign.h"
#include "distance.h"
#include "layout.h"
#include "means.h"
#include "whole.h"

HHRNET_BEGIN

constexpr double kNobodyCost = 1e10;

// What a group shares while it groups one image. The arrays that grow with M are outside: see GroupMemory.
struct GroupScratch {
    AssignScratch assign;
    int cost[kMaxTeam * kMaxTeam];       // whole costs
    Tag person_tag[kMaxCandidates];      // the mean of what arrived at each person considered,
    Tag tag_sum[kMaxCandidates];         // its sum where there are several dimensions,
    int arrived_count[kMaxCandidates];   // and its number
    int person_of[kMaxCandidates];       // who takes each candidate; -1 - i: the i-th that starts a person
    uint32_t near[kMaxTeam];             // of each candidate: who is near enough to take it
    int newcomers[kMaxCandidates];       // those that start one, in order,
    float newcomer_key[kMaxCandidates];  // and the first value of their tags
    int joint[kMaxJoints], found[kMaxJoints];  // as they are grouped; how many candidates each has
    int people;
    int whole;  // whether a joint's costs were whole numbers
};

// Scratch of one image; too large for shared memory at M = 100.
struct GroupMemory {
    double* cost;    // (M, M)
    float* arrived;  // (M, K): tags of one dimension of each considered person in order of arrival
    float* keys;     // (M*K): the first value of the tag that started each person
    int* taker;      // (K, M): the person whose joint each candidate becomes in the end; -1: none, or it is

    HHRNET_HD static size_t bytes(int joints, int people, int dims) {
        return sizeof(double) * people * people + sizeof(float) * people * joints * (dims == 1) +
               sizeof(float) * people * joints + sizeof(int) * people * joints;
    }
    HHRNET_HD static GroupMemory at(void* memory, int joints, int people, int dims) {
        double* cost = static_cast<double*>(memory);
        float* arrived = reinterpret_cast<float*>(cost + size_t(people) * people);
        float* keys = arrived + size_t(people) * joints * (dims == 1);
        return {cost, arrived, keys, reinterpret_cast<int*>(keys + size_t(people) * joints)};
    }
};

struct Grouping {
    const Settings& settings;
    int joints, dims;
    int width, height;  // the grid
    const int* order;   // K joint types
    Candidates candidates;
    PeopleBuffers people;
    GroupMemory memory;

    HHRNET_HD int capacity() const { return settings.max_people * joints; }
    HHRNET_HD float* keypoint(int person, int joint) const {
        return people.keypoints + (size_t(person) * joints + joint) * 3;
    }
    HHRNET_HD float* joint_tag(int person, int joint) const {
        return people.joint_tags + (size_t(person) * joints + joint) * dims;
    }
    HHRNET_HD float* arrived(int person) const { return memory.arrived + size_t(person) * joints; }
    HHRNET_HD int* taker(int joint) const { return memory.taker + size_t(joint) * settings.max_people; }
};

// The candidates of one joint, those above the threshold.
struct JointCandidates {
    int joint, found, dims;
    const float* value;
    const int* index;
    const float* tag;

    HHRNET_HD JointCandidates(const Grouping& g, int joint, int found)
        : joint(joint),
          found(found),
          dims(g.dims),
          value(g.candidates.value + size_t(joint) * g.settings.max_people),
          index(g.candidates.index + size_t(joint) * g.settings.max_people),
          tag(g.candidates.tag + size_t(joint) * g.settings.max_people * g.dims) {}
};

// How many of a joint's sorted candidates are above the threshold.
template <class Team>
HHRNET_HD int count_candidates(const Team& team, const Grouping& g, int joint) {
    const JointCandidates all(g, joint, 0);
    for (int first = 0;; first += team.size()) {
        const int which = first + team.rank();
        const bool used = which < g.settings.max_people && all.value[which] > g.settings.detection_threshold;
        const uint32_t unused = ~team.ballot(used);
        if (unused != 0 && lowest_bit(unused) < team.size()) return first + lowest_bit(unused);
    }
}

// Read at once, before anything is written that the compiler could take for the same memory.
struct Candidate {
    float value;
    int index;
    Tag tag;

    HHRNET_HD static Candidate read(const JointCandidates& c, int which) {
        return {c.value[which], c.index[which], Tag::read(c.tag + which * c.dims, c.dims)};
    }
};

// Zeros for the joints of people begin to end-1, by a team or a group.
template <class Team>
HHRNET_HD void clear_people(const Team& team, const Grouping& g, int begin, int end) {
    float *keypoints = g.keypoint(begin, 0), *tags = g.joint_tag(begin, 0);
    const int values = (end - begin) * g.joints;
    for (int i = team.rank(); i < values * 3; i += team.size()) keypoints[i] = 0.0f;
    for (int i = team.rank(); i < values * g.dims; i += team.size()) tags[i] = 0.0f;
}

// One thread: a person's tag is the mean of those that arrived, `place` of them before. NumPy adds rows of a
// matrix one after another, so that their sum can be kept; single values it adds in another order.
HHRNET_HD void add_tag(const Grouping& g, int person, const Tag& tag, int place, GroupScratch& s) {
    s.arrived_count[person] = place + 1;
    if (g.dims == 1) {
        float* arrived = g.arrived(person);
        arrived[place] = tag.value[0];
        s.person_tag[person].value[0] = mean_of_vector(place + 1, [&](int i) { return arrived[i]; });
        return;
    }
    Tag sum = s.tag_sum[person], mean;
    for (int dim = 0; dim < kMaxTagDims; ++dim) {
        sum.value[dim] = (place == 0 ? 0.0f : sum.value[dim]) + tag.value[dim];
        mean.value[dim] = sum.value[dim] / float(place + 1);
    }
    s.tag_sum[person] = sum;
    s.person_tag[person] = mean;
}

// One thread: a tag arrives at a person, `arrivals` of them before.
HHRNET_HD void take_tag(const Grouping& g, int person, const Tag& tag, int arrivals, GroupScratch& s) {
    if (person < g.settings.max_people) add_tag(g, person, tag, least(arrivals, g.joints - 1), s);
}

// One thread: the candidate becomes this person's joint.
HHRNET_HD void write_joint(const Grouping& g, int person, int joint, const Candidate& candidate) {
    const int index = clamped(candidate.index, 0, g.width * g.height - 1), row = index / g.width;
    float *keypoint = g.keypoint(person, joint), *tag = g.joint_tag(person, joint);
    keypoint[0] = float(index - row * g.width);
    keypoint[1] = float(row);
    keypoint[2] = candidate.value;
    for (int dim = 0; dim < kMaxTagDims; ++dim)
        if (dim < g.dims) tag[dim] = candidate.tag.value[dim];
}

// Starts a person, or overwrites the joint of the one whose key equals the candidate's first tag value, by a
// team. Ends with its barrier.
template <class Team>
HHRNET_HD void start_person(const Team& team, const Grouping& g, const JointCandidates& c, int which,
                            GroupScratch& s) {
    const Candidate candidate = Candidate::read(c, which);
    const float key = candidate.tag.value[0];
    const int people = s.people;
    int match = -1;  // no two people have one key
    for (int first = 0; first < people && match < 0; first += team.size()) {
        const int person = first + team.rank();
        const uint32_t same = team.ballot(person < people && g.memory.keys[person] == key);
        if (same != 0) match = first + lowest_bit(same);
    }
    const int person = match >= 0 ? match : least(people, g.capacity() - 1);
    if (match < 0 && person >= g.settings.max_people) clear_people(team, g, person, person + 1);
    team.barrier();
    if (team.rank() == 0) {
        if (match < 0) {
            g.memory.keys[person] = key;
            s.people = person + 1;
        }
        take_tag(g, person, candidate.tag, 0, s);
        write_joint(g, person, c.joint, candidate);
    }
    team.barrier();
}

// The costs of a joint's candidates, the rows, for the people so far, the columns; columns of nobody where
// candidates are more, rows of zeros where people are.
struct MatchingCosts {
    const JointCandidates& candidates;
    const GroupScratch& s;
    int considered;
    int use_detection_val;

    // Those for one person.
    struct Column {
        const MatchingCosts& all;
        bool nobody;
        Tag tag;

        HHRNET_HD double operator()(int which) const {
            const JointCandidates& c = all.candidates;
            const int real = least(which, c.found - 1);
            const double value = c.value[real];
            const Tag own = Tag::read(c.tag + real * c.dims, c.dims);
            const double cost = all.use_detection_val ? rounded_distance(own, tag, c.dims) * 100.0 - value
                                                      : sqrt(squared_distance(own, tag, c.dims));
            return which >= c.found ? 0.0 : nobody ? kNobodyCost : cost;
        }
    };

    HHRNET_HD Column operator()(int person) const {
        return {*this, person >= considered, s.person_tag[least(person, considered - 1)]};
    }
};

// Which person takes each candidate of a joint type, by a team: taker_of(row), or -1 where it starts one; the
// number of those that do. Ends with its barrier.
template <class Team, class TakerOf>
HHRNET_HD int accept_matches(const Team& team, const JointCandidates& c, const TakerOf& taker_of,
                             GroupScratch& s) {
    int newcomers = 0;
    for (int first = 0; first < c.found; first += team.size()) {
        const int which = first + team.rank(), taker = which < c.found ? taker_of(which) : 0;
        const bool starts = taker < 0;
        const uint32_t all = team.ballot(starts);
        const int before = newcomers + count_bits(all & ((1u << team.rank()) - 1u));
        if (starts) s.newcomers[before] = which;
        if (starts) s.newcomer_key[before] = c.tag[which * c.dims];
        if (which < c.found) s.person_of[which] = starts ? -1 - before : taker;
        newcomers += count_bits(all);
    }
    team.barrier();
    return newcomers;
}

// Gives the candidates to their persons or starts one, in row order.
template <class Team>
HHRNET_HD void place_in_order(const Team& team, const Grouping& g, const JointCandidates& c,
                              GroupScratch& s) {
    for (int which = 0; which < c.found; ++which) {
        const int person = s.person_of[which];
        if (person < 0) {
            start_person(team, g, c, which, s);
        } else if (team.rank() == 0) {
            const Candidate candidate = Candidate::read(c, which);
            take_tag(g, person, candidate.tag, s.arrived_count[person], s);
            write_joint(g, person, c.joint, candidate);
        }
    }
}

// Whether the key of a candidate that starts a person is that of another person, before or in this step.
template <class Team>
HHRNET_HD bool keys_clash(const Team& team, const Grouping& g, int newcomers, const GroupScratch& s) {
    constexpr int kAtOnce = 4;
    const int people = s.people, all = people + newcomers;
    bool same = false;
    for (int first = 0; newcomers > 0 && first < all; first += team.size()) {
        const int person = least(first + team.rank(), all - 1), own = person - people;
        const float key = own < 0 ? g.memory.keys[person] : s.newcomer_key[own];
        for (int begin = 0; begin < newcomers; begin += kAtOnce) {
            float others[kAtOnce];
            for (int k = 0; k < kAtOnce; ++k) others[k] = s.newcomer_key[least(begin + k, newcomers - 1)];
            for (int k = 0; k < kAtOnce; ++k)
                same |= others[k] == key && least(begin + k, newcomers - 1) != own;
        }
    }
    return team.ballot(same) != 0;
}

// What place_in_order does, all candidates at once: they go to different persons unless keys clash. What the
// next joint does not look at is left to write_joints.
template <class Team>
HHRNET_HD void place_at_once(const Team& team, const Grouping& g, const JointCandidates& c, int newcomers,
                             GroupScratch& s) {
    const int people = s.people, now = least(people + newcomers, g.capacity());
    if (now > g.settings.max_people) clear_people(team, g, greatest(people, g.settings.max_people), now);
    team.barrier();
    for (int which = team.rank(); which < c.found; which += team.size()) {
        const Tag tag = Tag::read(c.tag + which * c.dims, c.dims);
        const int taker = s.person_of[which];
        const int person = taker < 0 ? least(people - 1 - taker, g.capacity() - 1) : taker;
        const int place = taker < 0 ? 0 : s.arrived_count[person];
        if (taker < 0) g.memory.keys[person] = tag.value[0];
        take_tag(g, person, tag, place, s);
        g.taker(c.joint)[which] = person;
    }
    if (team.rank() == 0) s.people = now;
}

// The same where each thread has one candidate at most and none starts a person; false where one does.
template <class Team, class TakerOf>
HHRNET_HD bool place_matched(const Team& team, const Grouping& g, const JointCandidates& c,
                             const TakerOf& taker_of, GroupScratch& s) {
    const int which = team.rank(), person = which < c.found ? taker_of(which) : 0;
    if (team.size() == 1 || team.ballot(person < 0) != 0) return false;
    if (which < c.found) {
        take_tag(g, person, Tag::read(c.tag + which * c.dims, c.dims), s.arrived_count[person], s);
        g.taker(c.joint)[which] = person;
    }
    return true;
}

// Writes the joints that were left, by the group.
template <class Group>
HHRNET_HD void write_joints(const Group& group, const Grouping& g) {
    const int most = g.settings.max_people;
    for (int i = group.rank(); i < g.joints * most; i += group.size()) {
        const int joint = i / most, which = i - joint * most, person = g.taker(joint)[which];
        if (person < 0) continue;
        write_joint(g, person, joint, Candidate::read(JointCandidates(g, joint, most), which));
    }
}

// A joint's candidates to people, by a team.
template <class Team, class TakerOf>
HHRNET_HD void place(const Team& team, const Grouping& g, const JointCandidates& c, const TakerOf& taker_of,
                     GroupScratch& s) {
    const int newcomers = accept_matches(team, c, taker_of, s);
    if (team.size() > 1 && !keys_clash(team, g, newcomers, s))
        place_at_once(team, g, c, newcomers, s);
    else
        place_in_order(team, g, c, s);
}

// A joint in whole numbers, by a group; false where they do not do. Ends with a barrier.
template <class Group>
HHRNET_HD bool group_whole(const Group& group, const Grouping& g, const JointCandidates& c, int considered,
                           double squared_threshold, GroupScratch& s) {
    const bool narrow = is_narrow(group, considered) && c.found <= considered;
    if (!narrow || !g.settings.use_detection_val) return false;
    const WholeCosts costs = {c.value,           c.tag,  s.person_tag, c.found, considered, c.dims,
                              squared_threshold, s.cost, s.near};
    reduce_whole(group, costs, s.assign);
    const auto team = group.team();
    if (team.index() == 0) {
        int column = -1;
        const bool fits = assign_whole(team, costs, s.assign, column);
        const auto taker_of = [&](int row) { return s.near[row] >> column & 1u ? column : -1; };
        if (fits && !place_matched(team, g, c, taker_of, s)) place(team, g, c, taker_of, s);
        if (team.rank() == 0) s.whole = fits;
    }
    group.barrier();
    return s.whole;
}

// Groups all candidates of one image; s.people is their number. The costs are the group's work, what follows
// from them that of its first team.
template <class Group>
HHRNET_HD void group_people(const Group& group, const Grouping& g, GroupScratch& s) {
    const auto team = group.team();
    const double squared_threshold = square_of_threshold(g.settings.tag_threshold);
    if (group.rank() == 0) s.people = 0;
    for (int i = team.index(); i < g.joints; i += team.count()) {
        const int joint = clamped(g.order[i], 0, g.joints - 1);
        const int found = count_candidates(team, g, joint);
        if (team.rank() == 0) s.joint[i] = joint;
        if (team.rank() == 0) s.found[i] = found;
    }
    clear_people(group, g, 0, g.settings.max_people);  // more are rare
    if (!Group::single)
        for (int i = group.rank(); i < g.capacity(); i += group.size()) g.memory.taker[i] = -1;
    group.barrier();
    for (int i = 0; i < g.joints; ++i) {
        const JointCandidates candidates(g, s.joint[i], s.found[i]);
        const int found = candidates.found, considered = least(s.people, g.settings.max_people);
        if (found == 0 || (g.settings.ignore_too_much && considered == g.settings.max_people)) continue;
        if (group_whole(group, g, candidates, considered, squared_threshold, s)) continue;
        const MatchingCosts costs = {candidates, s, considered, g.settings.use_detection_val};
        const int n = considered > 0 ? greatest(found, considered) : 0;
        assign(group, costs, g.memory.cost, n, s.assign, [&](const auto& first) {
            const auto taker_of = [&](int row) {
                const int column = considered > 0 ? s.assign.star_in_row[row] : considered;
                if (column >= considered) return -1;
                const Tag tag = Tag::read(candidates.tag + row * candidates.dims, candidates.dims);
                return squared_distance(tag, s.person_tag[column], candidates.dims) < squared_threshold
                           ? column
                           : -1;
            };
            place(first, g, candidates, taker_of, s);
        });
    }
    if (!Group::single) write_joints(group, g);
    group.barrier();
}

HHRNET_END
