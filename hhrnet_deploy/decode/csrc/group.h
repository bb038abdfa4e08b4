// Step 9: grouping candidates into people by associative embedding (group.py:25-96), one image at a time.
#pragma once

#include "assign.h"
#include "layout.h"
#include "means.h"

HHRNET_BEGIN

constexpr double kNobodyCost = 1e10;

// A tag of `dims` dimensions where there is room for the most.
struct Tag {
    float value[kMaxTagDims];

    HHRNET_HD static Tag read(const float* from, int dims) { return {{from[0], from[dims - 1]}}; }
};
static_assert(kMaxTagDims == 2, "Tag::read takes the first and the last");

// What a group shares while it groups one image. The arrays that grow with M are outside: see GroupMemory.
struct GroupScratch {
    AssignScratch assign;
    Tag person_tag[kMaxCandidates];      // the mean of what arrived at each person considered,
    Tag tag_sum[kMaxCandidates];         // its sum where there are several dimensions,
    int arrived_count[kMaxCandidates];   // and its number
    int person_of[kMaxCandidates];       // who takes each candidate; -1 - i: the i-th that starts a person
    int newcomers[kMaxCandidates];       // those, in order,
    float newcomer_key[kMaxCandidates];  // and the first value of their tags
    int joint[kMaxJoints], found[kMaxJoints];  // as they are grouped; how many candidates each has
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
    HHRNET_HD float* keypoint(int person, int joint) const {
        return people.keypoints + (size_t(person) * joints + joint) * 3;
    }
    HHRNET_HD float* joint_tag(int person, int joint) const {
        return people.joint_tags + (size_t(person) * joints + joint) * dims;
    }
    HHRNET_HD float* arrived(int person) const { return memory.arrived + size_t(person) * joints; }
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

// The square of the L2 distance of a candidate from a person's tag, in float64 as np.linalg.norm adds it up.
HHRNET_HD double squared_distance(const Tag& a, const Tag& b, int dims) {
    double sum = 0.0;
    for (int dim = 0; dim < kMaxTagDims; ++dim) {
        const double difference = double(a.value[dim]) - double(b.value[dim]);
        sum = dim < dims ? sum + difference * difference : sum;
    }
    return sum;
}

// rint(sqrt(squared_distance)). A root in float32 is at most 2e-7 of itself from that in float64, so that it
// decides wherever it is not that close to the middle between two whole numbers.
HHRNET_HD double rounded_distance(const Tag& a, const Tag& b, int dims) {
    float sum = 0.0f;
    for (int dim = 0; dim < kMaxTagDims; ++dim) {
        const float difference = a.value[dim] - b.value[dim];
        sum = dim < dims ? sum + difference * difference : sum;
    }
    const float root = sqrtf(sum), whole = rintf(root);
    if (0.5f - fabsf(root - whole) > 5e-7f * root) return double(whole);
    return rint(sqrt(squared_distance(a, b, dims)));
}

// The least number whose root, rounded, is not below the threshold: a root is below where its square is below
// this.
HHRNET_HD double square_of_threshold(double threshold) {
    if (!(threshold > 0.0)) return 0.0;
    double square = threshold * threshold;
    while (sqrt(square) < threshold) square = nextafter(square, HUGE_VAL);
    for (double below = nextafter(square, 0.0); !(sqrt(below) < threshold); below = nextafter(square, 0.0))
        square = below;
    return square;
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

// One thread: the candidate becomes this person's joint, the `arrivals`-th tag in the person's list.
HHRNET_HD void take_joint(const Grouping& g, int person, int joint, const Candidate& candidate, int arrivals,
                          GroupScratch& s) {
    if (person < g.settings.max_people) add_tag(g, person, candidate.tag, least(arrivals, g.joints - 1), s);
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
        take_joint(g, person, c.joint, candidate, 0, s);
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

// Which person takes each candidate of a joint type, by a team; the number of those that start one. Ends with
// its barrier.
template <class Team>
HHRNET_HD int accept_matches(const Team& team, const JointCandidates& c, int considered,
                             double squared_threshold, GroupScratch& s) {
    int newcomers = 0;
    for (int first = 0; first < c.found; first += team.size()) {
        const int which = first + team.rank(), real = least(which, c.found - 1);
        const Tag tag = Tag::read(c.tag + real * c.dims, c.dims);
        const int column = considered > 0 ? s.assign.star_in_row[real] : 0;
        const bool accepted =
            column < considered && squared_distance(tag, s.person_tag[column], c.dims) < squared_threshold;
        const bool starts = which < c.found && !accepted;
        const uint32_t all = team.ballot(starts);
        const int before = newcomers + count_bits(all & ((1u << team.rank()) - 1u));
        if (starts) s.newcomers[before] = which;
        if (starts) s.newcomer_key[before] = tag.value[0];
        if (which < c.found) s.person_of[which] = starts ? -1 - before : column;
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
            take_joint(g, person, c.joint, Candidate::read(c, which), s.arrived_count[person], s);
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

// What place_in_order does, all candidates at once: they go to different persons unless keys clash.
template <class Team>
HHRNET_HD void place_at_once(const Team& team, const Grouping& g, const JointCandidates& c, int newcomers,
                             GroupScratch& s) {
    const int people = s.people, now = least(people + newcomers, g.capacity());
    if (now > g.settings.max_people) clear_people(team, g, greatest(people, g.settings.max_people), now);
    team.barrier();
    for (int which = team.rank(); which < c.found; which += team.size()) {
        const Candidate candidate = Candidate::read(c, which);
        const int taker = s.person_of[which];
        const int person = taker < 0 ? least(people - 1 - taker, g.capacity() - 1) : taker;
        const int place = taker < 0 ? 0 : s.arrived_count[person];
        if (taker < 0) g.memory.keys[person] = candidate.tag.value[0];
        take_joint(g, person, c.joint, candidate, place, s);
    }
    if (team.rank() == 0) s.people = now;
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
    group.barrier();
    for (int i = 0; i < g.joints; ++i) {
        const JointCandidates candidates(g, s.joint[i], s.found[i]);
        const int found = candidates.found, considered = least(s.people, g.settings.max_people);
        if (found == 0 || (g.settings.ignore_too_much && considered == g.settings.max_people)) continue;
        const MatchingCosts costs = {candidates, s, considered, g.settings.use_detection_val};
        const int n = considered > 0 ? greatest(found, considered) : 0;
        assign(group, costs, g.memory.cost, n, s.assign, [&](const auto& first) {
            const int newcomers = accept_matches(first, candidates, considered, squared_threshold, s);
            if (first.size() > 1 && !keys_clash(first, g, newcomers, s))
                place_at_once(first, g, candidates, newcomers, s);
            else
                place_in_order(first, g, candidates, s);
        });
    }
}

HHRNET_END
