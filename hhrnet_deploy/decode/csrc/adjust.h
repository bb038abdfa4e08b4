// Steps 10 and 11: move joints toward their larger neighbours (group.py:177-196), score each person, and mean
// the tags of the joints it has for refine.
#pragma once

#include "group.h"
#include "means.h"
#include "sample.h"

HHRNET_BEGIN

struct Offset {
    float x, y;
};

// +-0.25 toward the larger of the right/left and down/up neighbours; minus on ties; edges clamp.
HHRNET_HD Offset quarter_offset(const Projection& p, int joint, int x, int y) {
    const float right = sample_heat(p, joint, y, least(x + 1, p.width - 1));
    const float left = sample_heat(p, joint, y, greatest(x - 1, 0));
    const float down = sample_heat(p, joint, least(y + 1, p.height - 1), x);
    const float up = sample_heat(p, joint, greatest(y - 1, 0), x);
    return {right > left ? 0.25f : -0.25f, down > up ? 0.25f : -0.25f};
}

template <class Group>
HHRNET_HD void adjust_joints(const Group& group, const Projection& p, const Grouping& g, int people) {
    for (int i = group.rank(); i < people * g.joints; i += group.size()) {
        float* keypoint = g.people.keypoints + size_t(i) * 3;
        if (!(keypoint[2] > 0.0f)) continue;
        const int x = clamped(int(keypoint[0]), 0, p.width - 1),
                  y = clamped(int(keypoint[1]), 0, p.height - 1);
        const Offset offset = quarter_offset(p, i % g.joints, x, y);
        keypoint[0] = (float(x) + offset.x) + 0.5f;
        keypoint[1] = (float(y) + offset.y) + 0.5f;
    }
}

// The score is the mean over ALL joints, zeros included.
template <class Group>
HHRNET_HD void score_people(const Group& group, const Grouping& g, int people) {
    for (int person = group.rank(); person < people; person += group.size())
        g.people.scores[person] =
            mean_of_vector(g.joints, [&](int joint) { return g.keypoint(person, joint)[2]; });
}

// The mean tag over the joints a person has, in the order of the channels. Begins with the last threads: the
// first ones score people.
template <class Group>
HHRNET_HD void mean_found_tags(const Group& group, const Grouping& g, int people) {
    for (int i = group.size() - 1 - group.rank(); i < people * g.dims; i += group.size()) {
        const int person = i / g.dims, dim = i % g.dims;
        uint64_t found = 0;
        HHRNET_UNROLL
        for (int joint = 0; joint < g.joints; ++joint)
            found |= uint64_t(g.keypoint(person, joint)[2] > 0.0f) << joint;
        int count = 0;
        for (uint64_t left = found; left != 0; left &= left - 1) ++count;
        float mean = 0.0f;
        if (count > 0 && g.dims == 1) {
            int at = -1, joint = -1;  // tags are asked for in their order
            const auto next = [&](int place) {
                for (; at < place; ++at) do
                        ++joint;
                    while (!(found >> joint & 1u));
                return *g.joint_tag(person, joint);
            };
            mean = mean_of_vector(count, next);
        } else if (count > 0) {  // row by row, no tag waiting for the one before to be found
            constexpr int kAtOnce = 8;
            float total = 0.0f;
            for (int first = 0; first < g.joints; first += kAtOnce) {
                float tag[kAtOnce];
                for (int k = 0; k < kAtOnce; ++k)
                    tag[k] = g.joint_tag(person, least(first + k, g.joints - 1))[dim];
                for (int k = 0; k < kAtOnce; ++k)
                    total = first + k < g.joints && (found >> (first + k) & 1u) ? total + tag[k] : total;
            }
            mean = total / float(count);
        }
        g.people.person_tags[i] = mean;
    }
}

HHRNET_END
