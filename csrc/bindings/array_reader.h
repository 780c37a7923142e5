// SPDX-License-Identifier: Apache-2.0
// Reads the named arrays of a decoding run.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "bindings/tensor.h"

namespace via::python {

template <typename T>
DLDataType dtype_of() {
  using Value = std::remove_const_t<T>;
  constexpr std::uint8_t kBits = 8 * sizeof(Value);
  if (std::is_same_v<Value, bool>) return {kDLBool, kBits, 1};
  if (std::is_floating_point_v<Value>) return {kDLFloat, kBits, 1};
  return {static_cast<std::uint8_t>(std::is_unsigned_v<Value> ? kDLUInt : kDLInt), kBits, 1};
}

// Every array is checked for dtype, shape, contiguity and device. `arrays` must outlive the reader.
class ArrayReader {
 public:
  // Of a decoding run: its tokens set sizes and device.
  explicit ArrayReader(const py::dict& arrays) : ArrayReader("step", arrays, "tokens") {
    like_.check_rank(2, "[B, S]");
  }
  // `like` names the array that sets the device.
  ArrayReader(const char* op, const py::dict& arrays, const char* like)
      : op_(op), arrays_(arrays), like_(read(like)) {}

  const Tensor& like() const { return like_; }
  bool has(const char* name) const { return arrays_.contains(name); }
  Tensor read(const char* name) const {
    if (!arrays_.contains(name)) fail_value({op_, name}, "be given", "no such array");
    return read_tensor({op_, name}, py::object(arrays_[name]));
  }
  std::int32_t size(const char* name, int dim, int rank) const {
    const Tensor tensor = read(name);
    tensor.check_rank(rank, rank == 1 ? "[n]" : "[B, n]");
    return static_cast<std::int32_t>(tensor.size(dim));
  }

  template <typename T>
  void set(T*& field, const char* name, std::initializer_list<std::int64_t> sizes) const {
    field = reinterpret_cast<T*>(checked(name, dtype_of<T>(), sizes));
  }
  template <typename T>
  void set_bfloat16(T*& field, const char* name, std::initializer_list<std::int64_t> sizes) const {
    field = checked(name, {kDLBfloat, 16, 1}, sizes);
  }
  // An array of structs as the bytes that it is made of.
  template <typename T>
  void set_structs(T*& field, const char* name, std::int64_t count) const {
    field = reinterpret_cast<T*>(
        checked(name, dtype_of<std::uint8_t>(), {count * std::int64_t{sizeof(T)}}));
  }

 private:
  char* checked(const char* name, const DLDataType& wanted,
                std::initializer_list<std::int64_t> sizes) const {
    const Tensor tensor = read(name);
    if (tensor.dl.dtype.code != wanted.code || tensor.dl.dtype.bits != wanted.bits) {
      fail_type(tensor.argument, "be " + describe(wanted), describe(tensor.dl.dtype));
    }
    tensor.check_shape(sizes, "the shape that the sizes of the run give");
    tensor.check_contiguous();
    tensor.check_same_device(like_);
    return tensor.data();
  }

  const char* op_;
  const py::dict& arrays_;
  const Tensor like_;
};

}  // namespace via::python
