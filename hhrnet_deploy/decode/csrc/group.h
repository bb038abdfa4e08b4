// Step 9: grouping candidates into people by associative embedding (group.py:25-96), one image at a time.
#pragma once

#include "assign.h"
#include "layout.h"
#include "means.h"

HHRNET_BEGIN

constexpr double kNobodyCost = 1e10;

// What a group shares while it groups one image. The arrays that grow with M are outside: see GroupMemory.
struct GroupScratch {
    AssignScratch assign;
    float person_tag[kMaxCandidates * kMaxTagDims];  // the mean of what arrived at each person considered,
    float tag_sum[kMaxCandidates * kMaxTagDims];     // its sum where there are several dimensions,
    int arrived_count[kMaxCandidates];               // and its number
    int person_of[kMaxCandidates];  // who takes each candidate; -1 - i: the i-th that starts a person
    int newcomers[kMaxCandidates];  // those, in order
    int found[kMaxJoints];          // how many candidates each joint has
    int people;
};

// Scratch of one image; too large for shared memory at M = 100.
struct GroupMemory {
    double* cost;    // (M, M)
    float* arrived;  // (M, K): tags of one dimension of each considered person in order of arrival
    float* keys;     // (M*K): the first value of the tag that started each person

    HHRNET_HD static size_t bytes(int joints, int people, int dims) {
        return sizeof(double) * people * people + sizeof(float) * people * joints * (dims == 1) +
               sizeof(float) * people * joints;
    }
    HHRNET_HD static GroupMemory at(void* memory, int joints, int people, int dims) {
        double* cost = static_cast<double*>(memory);
        float* arrived = reinterpret_cast<float*>(cost + size_t(people) * people);
        return {cost, arrived, arrived + size_t(people) * joints * (dims == 1)};
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
    HHRNET_HD const float* tag(int joint, int which) const {
        return candidates.tag + (size_t(joint) * settings.max_people + which) * dims;
    }
    HHRNET_HD float value(int joint, int which) const {
        return candidates.value[joint * settings.max_people + which];
    }
    HHRNET_HD float* keypoint(int person, int joint) const {
        return people.keypoints + (size_t(person) * joints + joint) * 3;
    }
    HHRNET_HD float* joint_tag(int person, int joint) const {
        return people.joint_tags + (size_t(person) * joints + joint) * dims;
    }
    HHRNET_HD float* arrived(int person) const { return memory.arrived + size_t(person) * joints; }
};

// How many of the sorted candidates are above the threshold.
template <class Team>
HHRNET_HD int count_candidates(const Team& team, const Grouping& g, int joint) {
    for (int first = 0;; first += team.size()) {
        const int which = first + team.rank();
        const bool used =
            which < g.settings.max_people && g.value(joint, which) > g.settings.detection_threshold;
        const uint32_t unused = ~team.ballot(used);
        if (unused != 0 && lowest_bit(unused) < team.size()) return first + lowest_bit(unused);
    }
}

// The L2 distance of a candidate from a person's tag, in float64 as np.linalg.norm.
HHRNET_HD double tag_distance(const float* tag, const float* person_tag, int dims) {
    double sum = 0.0;
    for (int dim = 0; dim < dims; ++dim) {
        const double difference = double(tag[dim]) - double(person_tag[dim]);
        sum += difference * difference;
    }
    return sqrt(sum);
}

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
HHRNET_HD void add_tag(const Grouping& g, int person, const float* tag, int place, GroupScratch& s) {
    s.arrived_count[person] = place + 1;
    if (g.dims == 1) {
        float* arrived = g.arrived(person);
        arrived[place] = tag[0];
        s.person_tag[person] = mean_of_vector(place + 1, [&](int i) { return arrived[i]; });
        return;
    }
    for (int dim = 0; dim < g.dims; ++dim) {
        float& sum = s.tag_sum[person * g.dims + dim];
        sum = (place == 0 ? 0.0f : sum) + tag[dim];
        s.person_tag[person * g.dims + dim] = sum / float(place + 1);
    }
}

// One thread: the candidate becomes this person's joint; `arrivals` is where its tag goes in the person's tag
// list.
HHRNET_HD void take_joint(const Grouping& g, int person, int joint, int which, int arrivals,
                          GroupScratch& s) {
    const int index =
        clamped(g.candidates.index[joint * g.settings.max_people + which], 0, g.width * g.height - 1);
    float* keypoint = g.keypoint(person, joint);
    keypoint[0] = float(index % g.width);
    keypoint[1] = float(index / g.width);
    keypoint[2] = g.value(joint, which);
    const float* tag = g.tag(joint, which);
    for (int dim = 0; dim < g.dims; ++dim) g.joint_tag(person, joint)[dim] = tag[dim];
    if (person >= g.settings.max_people) return;
    add_tag(g, person, tag, least(arrivals, g.joints - 1), s);
}

// Starts a person, or overwrites the joint of the one whose key equals the candidate's first tag value, by a
// team. Ends with its barrier.
template <class Team>
HHRNET_HD void start_person(const Team& team, const Grouping& g, int joint, int which, GroupScratch& s) {
    const float key = g.tag(joint, which)[0];
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
        take_joint(g, person, joint, which, 0, s);
    }
    team.barrier();
}

// The cost of a candidate for a person; columns of nobody where candidates are more, rows of zeros where
// people are.
HHRNET_HD double matching_cost(const Grouping& g, int joint, int found, int considered, int which, int person,
                               const GroupScratch& s) {
    if (which >= found) return 0.0;
    if (person >= considered) return kNobodyCost;
    const double cost = tag_distance(g.tag(joint, which), s.person_tag + person * g.dims, g.dims);
    return g.settings.use_detection_val ? rint(cost) * 100.0 - double(g.value(joint, which)) : cost;
}

// Which person takes each candidate of a joint type, by a team; the number of those that start one. Ends with
// its barrier.
template <class Team>
HHRNET_HD int accept_matches(const Team& team, const Grouping& g, int joint, int found, int considered,
                             GroupScratch& s) {
    int newcomers = 0;
    for (int first = 0; first < found; first += team.size()) {
        const int which = first + team.rank(),
                  column = which < found && considered > 0 ? s.assign.star_in_row[which] : 0;
        const bool accepted = which < found && column < considered &&
                              tag_distance(g.tag(joint, which), s.person_tag + column * g.dims, g.dims) <
                                  g.settings.tag_threshold;
        const bool starts = which < found && !accepted;
        const uint32_t all = team.ballot(starts);
        const int before = newcomers + count_bits(all & ((1u << team.rank()) - 1u));
        if (starts) s.newcomers[before] = which;
        if (which < found) s.person_of[which] = starts ? -1 - before : column;
        newcomers += count_bits(all);
    }
    team.barrier();
    return newcomers;
}

// Gives the candidates to their persons or starts one, in row order.
template <class Team>
HHRNET_HD void place_in_order(const Team& team, const Grouping& g, int joint, int found, GroupScratch& s) {
    for (int which = 0; which < found; ++which) {
        const int person = s.person_of[which];
        if (person < 0) {
            start_person(team, g, joint, which, s);
        } else if (team.rank() == 0) {
            take_joint(g, person, joint, which, s.arrived_count[person], s);
        }
    }
}

// Whether the key of a candidate that starts a person is that of another person, before or in this step.
template <class Team>
HHRNET_HD bool keys_clash(const Team& team, const Grouping& g, int joint, int newcomers,
                          const GroupScratch& s) {
    const int people = s.people;
    const auto key = [&](int newcomer) { return g.tag(joint, s.newcomers[newcomer])[0]; };
    bool same = false;
    for (int newcomer = 0; newcomer < newcomers; ++newcomer)
        for (int i = team.rank(); i < people + newcomer; i += team.size())
            same |= (i < people ? g.memory.keys[i] : key(i - people)) == key(newcomer);
    return team.ballot(same) != 0;
}

// What place_in_order does, all candidates at once: they go to different persons unless keys clash.
template <class Team>
HHRNET_HD void place_at_once(const Team& team, const Grouping& g, int joint, int found, int newcomers,
                             GroupScratch& s) {
    const int people = s.people, now = least(people + newcomers, g.capacity());
    clear_people(team, g, greatest(people, g.settings.max_people), now);
    team.barrier();
    for (int which = team.rank(); which < found; which += team.size()) {
        const int taker = s.person_of[which];
        const int person = taker < 0 ? least(people - 1 - taker, g.capacity() - 1) : taker;
        if (taker < 0) g.memory.keys[person] = g.tag(joint, which)[0];
        take_joint(g, person, joint, which, taker < 0 ? 0 : s.arrived_count[person], s);
    }
    if (team.rank() == 0) s.people = now;
}

// Groups all candidates of one image; s.people is their number. The costs are the group's work, what follows
// from them that of its first team.
template <class Group>
HHRNET_HD void group_people(const Group& group, const Grouping& g, GroupScratch& s) {
    const auto team = group.team();
    if (group.rank() == 0) s.people = 0;
    for (int joint = team.index(); joint < g.joints; joint += team.count()) {
        const int found = count_candidates(team, g, joint);
        if (team.rank() == 0) s.found[joint] = found;
    }
    clear_people(group, g, 0, g.settings.max_people);  // more are rare
    group.barrier();
    for (int i = 0; i < g.joints; ++i) {
        const int joint = clamped(g.order[i], 0, g.joints - 1);
        const int found = s.found[joint];
        const int considered = least(s.people, g.settings.max_people);
        if (found == 0 || (g.settings.ignore_too_much && considered == g.settings.max_people)) continue;
        const auto cost = [&](int which, int person) {
            return matching_cost(g, joint, found, considered, which, person, s);
        };
        if (considered > 0)
            assign(group, cost, g.memory.cost, greatest(found, considered), s.assign);
        else
            group.barrier();  // all know how many people there are, before there are more
        if (team.index() == 0) {
            const int newcomers = accept_matches(team, g, joint, found, considered, s);
            if (team.size() > 1 && !keys_clash(team, g, joint, newcomers, s))
                place_at_once(team, g, joint, found, newcomers, s);
            else
                place_in_order(team, g, joint, found, s);
        }
        group.barrier();
    }
}

HHRNET_END
