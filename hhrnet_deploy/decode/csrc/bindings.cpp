// The Python module hhrnet_deploy.decode._native. Arguments are checked by decode/request.py; what is checked
// here is what would otherwise read outside an array.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu.h"

namespace nb = nanobind;

namespace hhrnet {
namespace {

using Array = nb::ndarray<nb::ro, nb::device::cpu, nb::ndim<4>>;
using Scale = std::tuple<Array, Array, std::optional<Array>, std::optional<Array>>;
using Floats = nb::ndarray<nb::numpy, float>;
using Found = std::tuple<Floats, Floats, Floats>;

constexpr nb::dlpack::dtype kHalf = {uint8_t(nb::dlpack::dtype_code::Float), 16, 1};

struct Options {
    double detection_threshold, tag_threshold;
    int nms_kernel, max_people;
    bool adjust, refine, use_detection_val, ignore_too_much;
};

void require(bool condition, const char* message) {
    if (!condition) throw nb::value_error(message);
}

HeadData head_of(const Array& array, size_t image) {
    const bool half = array.dtype() == kHalf;
    require(half || array.dtype() == nb::dtype<float>(), "heads have to be float32 or float16");
    require(array.shape(3) == 1 || array.stride(3) == 1, "heads have to be contiguous along x");
    const int64_t item = half ? 2 : 4;
    const char* data = static_cast<const char*>(array.data()) + int64_t(image) * array.stride(0) * item;
    return {data, long(array.stride(1)), long(array.stride(2)), half};
}

HeadData head_of(const std::optional<Array>& array, size_t image) {
    return array ? head_of(*array, image) : HeadData{nullptr, 0, 0, 0};
}

ScaleData scale_of(const Scale& scale, size_t image) {
    const auto& [coarse, fine, coarse_flipped, fine_flipped] = scale;
    return {head_of(coarse, image),       head_of(fine, image), head_of(coarse_flipped, image),
            head_of(fine_flipped, image), int(coarse.shape(3)), int(coarse.shape(2)),
            int(fine.shape(3)),           int(fine.shape(2))};
}

bool same_shape(const Array& a, const Array& b) {
    for (size_t i = 0; i < 4; ++i)
        if (a.shape(i) != b.shape(i)) return false;
    return true;
}

void check_scale(const Scale& scale, size_t batch, size_t joints, bool flip) {
    const auto& [coarse, fine, coarse_flipped, fine_flipped] = scale;
    require(fine.shape(0) == batch && coarse.shape(0) == batch, "heads have different batches");
    require(fine.shape(1) == joints && coarse.shape(1) == 2 * joints,
            "heads have different numbers of joints");
    require(coarse_flipped.has_value() == flip && fine_flipped.has_value() == flip,
            "flipped heads are incomplete");
    require(!flip || (same_shape(coarse, *coarse_flipped) && same_shape(fine, *fine_flipped)),
            "flipped heads have other shapes");
    for (const Array* array : {&coarse, &fine})
        for (size_t axis : {2, 3})
            require(array->shape(axis) >= 1 && array->shape(axis) <= 32768, "heads are empty or too large");
}

void check_indices(const std::vector<int>& indices, size_t joints) {
    require(indices.size() == joints, "there has to be one index per joint");
    for (int index : indices) require(index >= 0 && size_t(index) < joints, "a joint index is out of range");
}

// The largest float32 that is not above `threshold`.
float floor_to_float(double threshold) {
    const float nearest = float(threshold);
    return double(nearest) <= threshold ? nearest
                                        : std::nextafter(nearest, -std::numeric_limits<float>::infinity());
}

Settings settings_of(const Options& o) {
    require(o.nms_kernel >= 1 && o.nms_kernel <= 31 && o.nms_kernel % 2 == 1,
            "nms_kernel has to be odd, 1 to 31");
    require(o.max_people >= 1 && o.max_people <= kMaxCandidates, "max_people has to be 1 to 100");
    require(o.detection_threshold >= 0, "detection_threshold has to be at least 0");
    return {floor_to_float(o.detection_threshold),
            o.tag_threshold,
            o.nms_kernel,
            o.max_people,
            o.adjust,
            o.refine,
            o.use_detection_val,
            o.ignore_too_much};
}

ImageRequest base_request(const std::vector<Scale>& scales, int tag_scale, int width, int height,
                          const std::vector<int>& flip_index, const std::vector<int>& order,
                          const Options& options) {
    require(!scales.empty() && scales.size() <= size_t(kMaxScales), "there have to be 1 to 8 scales");
    require(tag_scale >= 0 && size_t(tag_scale) < scales.size(), "tag_scale is no scale");
    require(width >= 1 && width <= 32768 && height >= 1 && height <= 32768, "the grid is empty or too large");
    const Array& fine = std::get<1>(scales[0]);
    const size_t joints = fine.shape(1);
    require(joints >= 1 && joints <= size_t(kMaxJoints), "there have to be 1 to 64 joints");
    const bool flip = std::get<3>(scales[0]).has_value();
    for (const Scale& scale : scales) check_scale(scale, fine.shape(0), joints, flip);
    check_indices(flip_index, joints);
    check_indices(order, joints);
    ImageRequest request{};
    request.scales = int(scales.size());
    request.tag_scale = tag_scale;
    request.joints = int(joints);
    request.dims = flip ? 2 : 1;
    request.width = width;
    request.height = height;
    request.flip_index = flip_index.data();
    request.order = order.data();
    request.settings = settings_of(options);
    return request;
}

std::vector<ImageRequest> requests_of(const std::vector<Scale>& scales, const ImageRequest& base) {
    std::vector<ImageRequest> requests(std::get<1>(scales[0]).shape(0), base);
    for (size_t image = 0; image < requests.size(); ++image)
        for (size_t s = 0; s < scales.size(); ++s) requests[image].scale[s] = scale_of(scales[s], image);
    return requests;
}

Floats to_numpy(std::vector<float>&& values, std::initializer_list<size_t> shape) {
    auto* owned = new std::vector<float>(std::move(values));
    nb::capsule owner(owned, [](void* vector) noexcept { delete static_cast<std::vector<float>*>(vector); });
    return Floats(owned->data(), shape, owner);
}

const Decoder& decoder_of(const std::string& variant) {
    const Decoder* decoder = find_decoder(variant);
    require(decoder != nullptr, "this instruction set is unknown or this machine lacks it");
    return *decoder;
}

std::vector<std::optional<Found>> decode(const std::vector<Scale>& scales, int tag_scale, int width,
                                         int height, const std::vector<int>& flip_index,
                                         const std::vector<int>& order, const Options& options, int threads,
                                         const std::string& variant) {
    const Decoder& decoder = decoder_of(variant);
    const ImageRequest base = base_request(scales, tag_scale, width, height, flip_index, order, options);
    const std::vector<ImageRequest> requests = requests_of(scales, base);
    std::vector<FoundPeople> found;
    {
        nb::gil_scoped_release release;
        found = decode_batch(decoder, requests, threads);
    }
    const size_t joints = size_t(base.joints), dims = size_t(base.dims);
    std::vector<std::optional<Found>> people;
    for (FoundPeople& one : found) {
        const size_t count = size_t(one.count);
        if (one.unusable) {
            people.emplace_back();
            continue;
        }
        people.emplace_back(Found(to_numpy(std::move(one.keypoints), {count, joints, 3}),
                                  to_numpy(std::move(one.scores), {count}),
                                  to_numpy(std::move(one.joint_tags), {count, joints, dims})));
    }
    return people;
}

size_t workspace_bytes(const std::vector<Scale>& scales, int tag_scale, int width, int height,
                       int max_people) {
    const std::vector<int> indices(std::get<1>(scales.at(0)).shape(1), 0);
    const Options options = {0.1, 1.0, 5, max_people, true, true, true, false};
    ImageRequest request = base_request(scales, tag_scale, width, height, indices, indices, options);
    if (std::get<1>(scales[0]).shape(0) == 0) return 0;
    for (size_t s = 0; s < scales.size(); ++s) request.scale[s] = scale_of(scales[s], 0);
    return decoder_of("").workspace(request);
}

using Pixels = nb::ndarray<const uint8_t, nb::device::cpu, nb::shape<-1, -1, 3>, nb::c_contig>;

nb::ndarray<nb::numpy, uint8_t> warp(const Pixels& image, const std::array<double, 6>& matrix, int width,
                                     int height) {
    require(image.shape(0) >= 1 && image.shape(0) <= 32767 && image.shape(1) >= 1 && image.shape(1) <= 32767,
            "the image is empty or too large");
    require(width >= 1 && width <= 32767 && height >= 1 && height <= 32767,
            "the target is empty or too large");
    const size_t shape[] = {size_t(height), size_t(width), 3};
    auto* pixels = new uint8_t[shape[0] * shape[1] * shape[2]];
    nb::capsule owner(pixels, [](void* memory) noexcept { delete[] static_cast<uint8_t*>(memory); });
    WarpRequest request = {
        image.data(), int(image.shape(1)), int(image.shape(0)), long(image.shape(1)) * 3, {}, width, height,
        pixels};
    std::copy(matrix.begin(), matrix.end(), request.forward);
    {
        nb::gil_scoped_release release;
        decoder_of("").warp(request);
    }
    return nb::ndarray<nb::numpy, uint8_t>(pixels, 3, shape, owner);
}

std::vector<std::string> variants() {
    std::vector<std::string> names;
    for (const Decoder* decoder : usable_decoders()) names.emplace_back(decoder->name);
    return names;
}

}  // namespace
}  // namespace hhrnet

NB_MODULE(_native, m) {
    using namespace hhrnet;
    m.doc() = "The compiled decoder; use hhrnet_deploy.decode.decode_heads.";
    nb::class_<Options>(m, "Options", "Thresholds and switches, as DecodeConfig.")
        .def(nb::init<double, double, int, int, bool, bool, bool, bool>(), nb::kw_only(),
             nb::arg("detection_threshold"), nb::arg("tag_threshold"), nb::arg("nms_kernel"),
             nb::arg("max_people"), nb::arg("adjust"), nb::arg("refine"), nb::arg("use_detection_val"),
             nb::arg("ignore_too_much"));
    m.def("decode", &decode, nb::arg("scales"), nb::arg("tag_scale"), nb::arg("width"), nb::arg("height"),
          nb::arg("flip_index"), nb::arg("order"), nb::arg("options"), nb::arg("threads") = 1,
          nb::arg("variant") = "",
          "Keypoints (P, K, 3), scores (P,) and tags (P, K, L) of each image; None where a head holds a "
          "value that no "
          "decoder accepts.");
    m.def("workspace_bytes", &workspace_bytes, nb::arg("scales"), nb::arg("tag_scale"), nb::arg("width"),
          nb::arg("height"), nb::arg("max_people") = 30, "Bytes of memory one image needs beside its heads.");
    m.def("warp", &warp, nb::arg("image"), nb::arg("matrix"), nb::arg("width"), nb::arg("height"),
          "The (height, width, 3) uint8 image that cv2.warpAffine of OpenCV 4 makes with this forward 2x3 "
          "matrix.");
    m.def("variants", &variants,
          "The instruction sets this machine can run, best first; all compute the same bits.");
}
