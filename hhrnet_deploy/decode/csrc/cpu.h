// The CPU decoder: picks the instruction set, keeps workspaces, spreads images over threads.
#pragma once

#include <string>
#include <vector>

#include "interface.h"

namespace hhrnet {

// The decoders that this machine can run, best first.
std::vector<const Decoder*> usable_decoders();

// The best one, or the one of that name; nullptr when it is unknown or cannot run here.
const Decoder* find_decoder(const std::string& name);

// The people of one image: (count, K, 3), (count), (count, K, L), copied out of the workspace.
struct FoundPeople {
    std::vector<float> keypoints, scores, joint_tags;
    int count = 0;
    bool unusable = false;
};

// Decodes every image, over at most `threads` threads; the result does not depend on their number.
std::vector<FoundPeople> decode_batch(const Decoder& decoder, const std::vector<ImageRequest>& images,
                                      int threads);

}  // namespace hhrnet
