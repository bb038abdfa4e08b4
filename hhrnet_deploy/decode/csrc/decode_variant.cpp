// The decoder of one instruction set. CMake compiles this file several times with other flags and another
// HHRNET_VARIANT; contraction is off, so every copy computes the same bits.
#include "decode.h"
#include "warp.h"

#define HHRNET_TEXT_OF(name) #name
#define HHRNET_TEXT(name) HHRNET_TEXT_OF(name)
#define HHRNET_JOIN_OF(a, b) a##b
#define HHRNET_JOIN(a, b) HHRNET_JOIN_OF(a, b)

namespace hhrnet {
inline namespace HHRNET_VARIANT {

void warp_image(const WarpRequest& r) {
    const WarpImage image = {r.pixels, r.width, r.height, r.row_stride};
    warp_rows(SingleThread{}, image, inverse_of(r.forward), r.target_width, 0, r.target_height, r.out);
}

}  // namespace HHRNET_VARIANT

extern const Decoder HHRNET_JOIN(decoder_, HHRNET_VARIANT);
const Decoder HHRNET_JOIN(decoder_, HHRNET_VARIANT) = {HHRNET_TEXT(HHRNET_VARIANT), &workspace_bytes,
                                                       &decode_image, &warp_image};

}  // namespace hhrnet
