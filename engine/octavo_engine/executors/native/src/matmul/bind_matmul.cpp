// What Python sees of the products: enough to test and to measure them. The executor itself calls them from C++.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <ctime>
#include <string>

#include "matmul.h"
#include "matmul/roofline.h"
#include "parallel.h"

namespace nb = nanobind;

namespace octavo {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

struct PythonPart {
  int32_t format;
  int64_t rows;
  Bytes data;
};

std::unique_ptr<Matrix> pack_parts(const nb::list& parts, int64_t k, int32_t widen, int32_t isa, int threads) {
  std::vector<Bytes> alive;
  std::vector<Rows> rows;
  for (const nb::handle part : parts) {
    const auto tuple = nb::cast<nb::tuple>(part);
    alive.push_back(nb::cast<Bytes>(tuple[2]));
    rows.push_back(
        {static_cast<Format>(nb::cast<int32_t>(tuple[0])), nb::cast<int64_t>(tuple[1]), alive.back().data()});
  }
  const nb::gil_scoped_release release;
  Team team(threads);
  return pack(rows, k, widen, static_cast<Isa>(isa), team);
}

void check_shapes(const Matrix& w, const Floats& x, const FloatsOut& y) {
  if (static_cast<int64_t>(x.shape(1)) != w.k() || y.shape(0) != x.shape(0) ||
      static_cast<int64_t>(y.shape(1)) != w.n()) {
    throw std::invalid_argument("x must be [m, k] and y [m, n]");
  }
}

void multiply(const Matrix& w, const Floats& x, const FloatsOut& y, int threads, int32_t isa) {
  check_shapes(w, x, y);
  const auto m = static_cast<int64_t>(x.shape(0));
  const nb::gil_scoped_release release;
  Activations prepared(w.kind(), m, w.k(), static_cast<Isa>(isa));
  Team team(threads);
  team.run([&](Member& me) {
    team.each(me, m, 1,
              [&](int64_t begin, int64_t end) { prepared.prepare(x.data() + begin * w.k(), w.k(), begin, end); });
    team.each(me, w.blocks(), 1,
              [&](int64_t begin, int64_t end) { matmul(w, prepared, {0, m}, begin, end, y.data(), w.n()); });
  });
}

// Rows of the matrix as a step looks up embeddings.
void rows(const Matrix& w, const std::vector<int64_t>& wanted, const FloatsOut& out, int threads) {
  if (out.shape(0) != wanted.size() || static_cast<int64_t>(out.shape(1)) != w.k()) {
    throw std::invalid_argument("out must be [rows, k]");
  }
  const nb::gil_scoped_release release;
  Team team(threads);
  team.run([&](Member& me) {
    team.each(me, static_cast<int64_t>(wanted.size()), 1, [&](int64_t begin, int64_t end) {
      for (; begin < end; ++begin) w.row(wanted[static_cast<size_t>(begin)], out.data() + begin * w.k());
    });
  });
}

// One thread is timed by its own clock, which a busy neighbour does not stop; several by the wall's.
double seconds_now(int threads) {
  timespec time{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Seconds of one pass over `matrices` (products alone), for each of `repeats` passes. Rows are made up.
std::vector<double> time_pass(const std::vector<const Matrix*>& matrices, int64_t m, int threads, int repeats,
                              bool prepare, int32_t isa) {
  const nb::gil_scoped_release release;
  int64_t widest_n = 0;
  int64_t widest_k = 0;
  for (const Matrix* w : matrices) {
    widest_n = std::max(widest_n, w->n());
    widest_k = std::max(widest_k, w->k());
  }
  std::vector<float> x(static_cast<size_t>(m * widest_k));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 2654435761u % 1024) / 512.0f - 1.0f;
  std::vector<float> y(static_cast<size_t>(m * widest_n));
  std::vector<std::unique_ptr<Activations>> prepared;
  std::vector<Activations*> of_matrix;
  for (const Matrix* w : matrices) {
    Activations* found = nullptr;
    for (size_t i = 0; i < of_matrix.size() && found == nullptr; ++i) {
      if (matrices[i]->k() == w->k() && matrices[i]->kind() == w->kind()) found = of_matrix[i];
    }
    if (found == nullptr) {
      prepared.push_back(std::make_unique<Activations>(w->kind(), m, w->k(), static_cast<Isa>(isa)));
      found = prepared.back().get();
      found->prepare(x.data(), w->k(), 0, m);
    }
    of_matrix.push_back(found);
  }
  Team team(threads);
  std::vector<double> seconds;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const double start = seconds_now(threads);
    team.run([&](Member& me) {
      for (size_t i = 0; i < matrices.size(); ++i) {
        const Matrix& w = *matrices[i];
        if (prepare) {
          team.each(me, m, 1, [&](int64_t begin, int64_t end) {
            of_matrix[i]->prepare(x.data() + begin * w.k(), w.k(), begin, end);
          });
        }
        team.each(me, w.blocks(), 1,
                  [&](int64_t begin, int64_t end) { matmul(w, *of_matrix[i], {0, m}, begin, end, y.data(), w.n()); });
      }
    });
    seconds.push_back(seconds_now(threads) - start);
  }
  return seconds;
}

}  // namespace

void bind_matmul(nb::module_& module) {
  module.def("best_isa", [] { return static_cast<int32_t>(best_isa()); });
  nb::dict isas;
  for (const Isa isa : kIsas) isas[isa_name(isa)] = static_cast<int32_t>(isa);
  module.attr("ISAS") = isas;
  module.def("isa_available", [](int32_t isa) { return isa_available(static_cast<Isa>(isa)); });
  module.def("stackable", [](int32_t a, int32_t b, int32_t widen) {
    return stackable(static_cast<Format>(a), static_cast<Format>(b), widen);
  });
  nb::class_<Matrix>(module, "Matrix")
      .def_prop_ro("n", &Matrix::n)
      .def_prop_ro("k", &Matrix::k)
      .def_prop_ro("kind", [](const Matrix& w) { return static_cast<int32_t>(w.kind()); })
      .def_prop_ro("bytes", &Matrix::bytes)
      .def_prop_ro("blocks", &Matrix::blocks)
      .def("block_column", &Matrix::block_column)
      .def("rows", &rows, nb::arg("wanted"), nb::arg("out"), nb::arg("threads") = 1,
           "Look rows up into out [rows, k], in a running team as a step does.");
  module.def("pack", &pack_parts, nb::arg("parts"), nb::arg("k"), nb::arg("widen") = -1, nb::arg("isa") = 0,
             nb::arg("threads") = 1, "Pack a list of (format number, rows, bytes) into one Matrix.");
  module.def("multiply", &multiply, nb::arg("w"), nb::arg("x"), nb::arg("y"), nb::arg("threads") = 1,
             nb::arg("isa") = 0, "y[m, n] = x[m, k] times the matrix, activations prepared by `isa`.");
  module.def("time_pass", &time_pass, nb::arg("matrices"), nb::arg("m"), nb::arg("threads"), nb::arg("repeats"),
             nb::arg("prepare"), nb::arg("isa"));
  module.def("measure_peak", [](int32_t peak, int threads) {
    const nb::gil_scoped_release release;
    return measure_peak(static_cast<Peak>(peak), threads);
  });
  module.def("measure_bandwidth", [](int64_t bytes, int threads, int repeats) {
    const nb::gil_scoped_release release;
    return measure_bandwidth(bytes, threads, repeats);
  });
}

}  // namespace octavo
