// Loads a SavedModel with the C++ loader that TensorFlow Serving uses, runs one signature once
// and prints its outputs as one JSON object, {name: {"dtype", "shape", "values"}}, in which
// values is flat, in row-major order.
//
//   loader SAVED_MODEL_DIR SIGNATURE [--xla_off] [--op_library=PATH ...] NAME=VALUE...
//
// A string VALUE is text, the entries of a batch separated by '|'. Of int32 inputs the rows are
// separated by ';' and the numbers by ','; a rank-1 input is one number per entry.

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {
void DisableXlaCompilation();  // Its header, compiler/jit/flags.h, includes much of XLA.

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::runtime_error(message);
}

void Require(const absl::Status& status) { Require(status.ok(), status.ToString()); }

template <typename T, typename S>
Tensor Filled(const TensorShape& shape, const std::vector<S>& values) {
  Tensor tensor(DataTypeToEnum<T>::value, shape);
  std::copy(values.begin(), values.end(), tensor.flat<T>().data());
  return tensor;
}

Tensor Input(const TensorInfo& info, const std::string& text) {
  const bool is_string = info.dtype() == DT_STRING;
  const int rank = info.tensor_shape().dim_size();
  Require(rank == 1 || (rank == 2 && !is_string), "cannot feed rank " + std::to_string(rank));
  const std::vector<std::string> rows = absl::StrSplit(text, is_string ? '|' : ';');
  const int64_t count = rows.size();
  if (is_string) return Filled<tstring>({count}, rows);

  Require(info.dtype() == DT_INT32, "cannot feed " + DataTypeString(info.dtype()));
  Require(count == 1 || rank == 2, "rows for an input of rank 1: " + text);
  std::vector<int32_t> numbers;
  size_t length = 0;
  for (const std::string& row : rows) {
    const std::vector<std::string> entries = absl::StrSplit(row, ',');
    for (const std::string& entry : entries) {
      Require(absl::SimpleAtoi(entry, &numbers.emplace_back()), "not an int32: '" + entry + "'");
    }
    Require(length == 0 || length == entries.size(), "rows of different lengths: " + text);
    length = entries.size();
  }
  TensorShape shape({static_cast<int64_t>(length)});
  if (rank == 2) shape.InsertDim(0, count);
  return Filled<int32_t>(shape, numbers);
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const unsigned char c : text) {  // From 0x80 up are the bytes of UTF-8, legal as they are.
    char escaped[7] = {static_cast<char>(c)};
    if (c < 0x20 || c == '"' || c == '\\') snprintf(escaped, sizeof(escaped), "\\u%04x", c);
    out += escaped;
  }
  return out + '"';
}

template <typename T>
std::string Values(const Tensor& tensor) {
  std::ostringstream out;
  out.precision(std::numeric_limits<T>::max_digits10);  // Enough to read the same number back.
  for (int64_t i = 0; i < tensor.NumElements(); ++i) {
    const T& value = tensor.flat<T>()(i);
    out << (i > 0 ? ", " : "");
    if constexpr (std::is_same_v<T, tstring>) {
      out << Quoted(value);
    } else if constexpr (std::is_floating_point_v<T>) {
      // JSON has no words for what is not finite; Python's reader takes these.
      if (std::isfinite(value)) out << value;
      else out << (std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
    } else {
      out << std::boolalpha << value;
    }
  }
  return out.str();
}

std::string Output(const Tensor& tensor) {
  const std::string dtype = DataTypeString(tensor.dtype());
  std::string values;
  switch (tensor.dtype()) {
    case DT_STRING: values = Values<tstring>(tensor); break;
    case DT_BOOL: values = Values<bool>(tensor); break;
    case DT_INT32: values = Values<int32_t>(tensor); break;
    case DT_INT64: values = Values<int64_t>(tensor); break;
    case DT_FLOAT: values = Values<float>(tensor); break;
    default: Require(false, "cannot print " + dtype);
  }
  return "{\"dtype\": \"" + dtype + "\", \"shape\": [" +
         absl::StrJoin(tensor.shape().dim_sizes(), ", ") + "], \"values\": [" + values + "]}";
}

void Main(const std::vector<std::string>& arguments) {
  Require(arguments.size() >= 2, "usage: loader SAVED_MODEL_DIR SIGNATURE [FLAG|NAME=VALUE ...]");
  const std::string library_flag = "--op_library=";
  std::vector<std::pair<std::string, std::string>> feeds;
  for (size_t i = 2; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--xla_off") {
      DisableXlaCompilation();
    } else if (argument.rfind(library_flag, 0) == 0) {
      // Its ops register themselves as the library opens. Local, as Python opens them.
      const void* library = dlopen(&argument[library_flag.size()], RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) throw std::runtime_error(dlerror());
    } else {
      Require(argument.find('=') != std::string::npos, "neither a flag nor an input: " + argument);
      feeds.push_back(absl::StrSplit(argument, absl::MaxSplits('=', 1)));
    }
  }

  SavedModelBundle bundle;
  Require(LoadSavedModel({}, {}, arguments[0], {"serve"}, &bundle));
  const auto signature = bundle.GetSignatures().find(arguments[1]);
  Require(signature != bundle.GetSignatures().end(), "no signature " + arguments[1]);

  std::vector<std::pair<std::string, Tensor>> inputs;
  for (const auto& [name, value] : feeds) {
    const auto input = signature->second.inputs().find(name);
    Require(input != signature->second.inputs().end(), "no input " + name);
    inputs.emplace_back(input->second.name(), Input(input->second, value));
  }
  std::vector<std::string> names, fetches;
  for (const auto& [name, info] : signature->second.outputs()) {
    names.push_back(name);
    fetches.push_back(info.name());
  }
  std::vector<Tensor> outputs;
  Require(bundle.GetSession()->Run(inputs, fetches, {}, &outputs));
  std::string json;
  for (size_t i = 0; i < names.size(); ++i) {
    json += (i > 0 ? ", " : "") + Quoted(names[i]) + ": " + Output(outputs[i]);
  }
  std::cout << "{" << json << "}" << std::endl;
}
}  // namespace tensorflow

int main(int argc, char** argv) {
  try {
    tensorflow::Main({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
