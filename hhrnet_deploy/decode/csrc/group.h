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
    float person_tag[kMaxCandidates * kMaxTagDims];  // the tag of each person considered
    int arrived_count[kMaxCandidates];               // how many tags its mean has
    int person_of[kMaxCandidates];                   // who takes each candidate; -1: starts a person
    int people;
    int match;
    int clash;
};

// Scratch of one image; too large for shared memory at M = 100.
struct GroupMemory {
    double* cost;    // (M, M)
    float* arrived;  // (M, K, L): tags of each considered person in order of arrival
    float* keys;     // (M*K): the first value of the tag that started each person

    HHRNET_HD static size_t bytes(int joints, int people, int dims) {
        return sizeof(double) * people * people + sizeof(float) * people * joints * dims +
               sizeof(float) * people * joints;
    }
    HHRNET_HD static GroupMemory at(void* memory, int joints, int people, int dims) {
        double* cost = static_cast<double*>(memory);
        float* arrived = reinterpret_cast<float*>(cost + size_t(people) * people);
        return {cost, arrived, arrived + size_t(people) * joints * dims};
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
    HHRNET_HD float* arrived(int person, int place) const {
        return memory.arrived + (size_t(person) * joints + place) * dims;
    }
};

// How many of the sorted candidates are above the threshold; each team counts for itself.
template <class Group>
HHRNET_HD int count_candidates(const Group& group, const Grouping& g, int joint) {
    const auto team = group.team();
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
    const int place = least(arrivals, g.joints - 1);
    for (int dim = 0; dim < g.dims; ++dim) g.arrived(person, place)[dim] = tag[dim];
    s.arrived_count[person] = place + 1;
}

// Starts a person, or overwrites the joint of the one whose key equals the candidate's first tag value. Ends
// with a barrier.
template <class Group>
HHRNET_HD void start_person(const Group& group, const Grouping& g, int joint, int which, GroupScratch& s) {
    const float key = g.tag(joint, which)[0];
    const int people = s.people;
    for (int person = group.rank(); person < people; person += group.size())
        if (g.memory.keys[person] == key) s.match = person;
    group.barrier();
    const int match = s.match;
    const int person = match >= 0 ? match : least(people, g.capacity() - 1);
    if (match < 0) {
        for (int i = group.rank(); i < g.joints * 3; i += group.size()) g.keypoint(person, 0)[i] = 0.0f;
        for (int i = group.rank(); i < g.joints * g.dims; i += group.size()) g.joint_tag(person, 0)[i] = 0.0f;
    }
    group.barrier();
    if (group.rank() == 0) {
        if (match < 0) {
            g.memory.keys[person] = key;
            s.people = person + 1;
        }
        s.match = -1;
        take_joint(g, person, joint, which, 0, s);
    }
    group.barrier();
}

// The tag of each considered person: the mean of the tags that arrived.
template <class Group>
HHRNET_HD void mean_tags(const Group& group, const Grouping& g, int considered, GroupScratch& s) {
    for (int i = group.rank(); i < considered * g.dims; i += group.size()) {
        const int person = i / g.dims;
        const auto at = [&](int place, int dim) { return g.arrived(person, place)[dim]; };
        s.person_tag[i] = mean_of_tags(s.arrived_count[person], g.dims, i % g.dims, at);
    }
    group.barrier();
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

// Decides which person takes each candidate of a joint type after the first: s.person_of. Ends with a
// barrier.
template <class Group>
HHRNET_HD void match_joint(const Group& group, const Grouping& g, int joint, int found, int considered,
                           GroupScratch& s) {
    mean_tags(group, g, considered, s);
    const auto cost = [&](int which, int person) {
        return matching_cost(g, joint, found, considered, which, person, s);
    };
    assign(group, cost, g.memory.cost, greatest(found, considered), s.assign);
    for (int which = group.rank(); which < found; which += group.size()) {
        const int column = s.assign.star_in_row[which];
        const bool accepted =
            column < considered && tag_distance(g.tag(joint, which), s.person_tag + column * g.dims, g.dims) <
                                       g.settings.tag_threshold;
        s.person_of[which] = accepted ? column : -1;
    }
    group.barrier();
}

// Gives the candidates to their persons or starts one, in row order.
template <class Group>
HHRNET_HD void place_in_order(const Group& group, const Grouping& g, int joint, int found, GroupScratch& s) {
    for (int which = 0; which < found; ++which) {
        const int person = s.person_of[which];
        if (person < 0) {
            start_person(group, g, joint, which, s);
        } else if (group.rank() == 0) {
            take_joint(g, person, joint, which, s.arrived_count[person], s);
        }
    }
}

// Whether the key of a candidate that starts a person is that of another person, before or in this step. All
// threads get the answer, after a barrier.
template <class Group>
HHRNET_HD bool keys_clash(const Group& group, const Grouping& g, int joint, int found, GroupScratch& s) {
    const int others = s.people + found;
    for (int i = group.rank(); i < found * others; i += group.size()) {
        const int which = i / others, other = i % others - s.people;
        if (s.person_of[which] >= 0 || (other >= 0 && (other >= which || s.person_of[other] >= 0))) continue;
        const float key = other < 0 ? g.memory.keys[other + s.people] : g.tag(joint, other)[0];
        if (key == g.tag(joint, which)[0]) group.add(&s.clash, 1);
    }
    group.barrier();
    return s.clash > 0;
}

// What place_in_order does, all candidates at once: they go to different persons unless keys clash. Ends with
// a barrier.
template <class Group>
HHRNET_HD void place_at_once(const Group& group, const Grouping& g, int joint, int found, GroupScratch& s) {
    const auto new_before = [&](int which) {
        int count = 0;
        for (int i = 0; i < which; ++i) count += s.person_of[i] < 0;
        return count;
    };
    const int people = s.people, now = least(people + new_before(found), g.capacity());
    float *keypoints = g.keypoint(people, 0), *tags = g.joint_tag(people, 0);
    for (int i = group.rank(); i < (now - people) * g.joints * 3; i += group.size()) keypoints[i] = 0.0f;
    for (int i = group.rank(); i < (now - people) * g.joints * g.dims; i += group.size()) tags[i] = 0.0f;
    group.barrier();
    for (int which = group.rank(); which < found; which += group.size()) {
        const bool starts = s.person_of[which] < 0;
        const int person = starts ? least(people + new_before(which), g.capacity() - 1) : s.person_of[which];
        if (starts) g.memory.keys[person] = g.tag(joint, which)[0];
        take_joint(g, person, joint, which, starts ? 0 : s.arrived_count[person], s);
    }
    if (group.rank() == 0) s.people = now;
    group.barrier();
}

// Ends with a barrier.
template <class Group>
HHRNET_HD void place_joint(const Group& group, const Grouping& g, int joint, int found, GroupScratch& s) {
    if constexpr (!Group::single) {
        if (!keys_clash(group, g, joint, found, s)) {
            place_at_once(group, g, joint, found, s);
            return;
        }
        group.barrier();
        if (group.rank() == 0) s.clash = 0;
    }
    place_in_order(group, g, joint, found, s);
    group.barrier();
}

// Groups all candidates of one image; s.people is their number.
template <class Group>
HHRNET_HD void group_people(const Group& group, const Grouping& g, GroupScratch& s) {
    if (group.rank() == 0) {
        s.people = s.clash = 0;
        s.match = -1;
    }
    group.barrier();
    for (int i = 0; i < g.joints; ++i) {
        const int joint = clamped(g.order[i], 0, g.joints - 1);
        const int found = count_candidates(group, g, joint);
        if (found == 0) continue;
        const int considered = least(s.people, g.settings.max_people);
        if (considered == 0) {
            for (int which = group.rank(); which < found; which += group.size()) s.person_of[which] = -1;
            group.barrier();
        } else {
            if (g.settings.ignore_too_much && considered == g.settings.max_people) continue;
            match_joint(group, g, joint, found, considered, s);
        }
        place_joint(group, g, joint, found, s);
    }
}

HHRNET_END
