/* libFuzzer and Python in one process: FUZZ_TARGET names the target; inputs go to it one by one.
 *
 * A target is what fuzz.parsers.target() returns: a capsule with a C function, or something to be called with
 * bytes.  An exception that it lets out is a finding.  The GIL is held all the time: there is one thread.
 *
 * The modules in C bring their own coverage.  For a target in Python each line it reaches counts as an edge,
 * through libFuzzer's extra counters.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <frameobject.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { LINE_COUNTERS = 1 << 16 };

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t lines[LINE_COUNTERS];

typedef void target_function(const uint8_t *data, size_t size);

static target_function *in_c;
static PyObject *in_python;
static const uint64_t *packets;     /* that the target had judged; NULL: it judges none */

static int note_line(PyObject *self, PyFrameObject *frame, int what, PyObject *argument)
{
    (void)self;
    (void)argument;
    if (what == PyTrace_LINE) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        uint64_t place = (uint64_t)(uintptr_t)code * 31 + (uint64_t)PyFrame_GetLasti(frame);
        uint8_t *counter = &lines[place * UINT64_C(0x9E3779B97F4A7C15) >> 48];
        if (*counter != UINT8_MAX)
            ++*counter;
        Py_DECREF(code);
    }
    return 0;
}

static void give_up(const char *what)
{
    fprintf(stderr, "fuzz: %s\n", what);
    PyErr_Print();
    abort();
}

static void report(void)
{
    if (packets != NULL)
        fprintf(stderr, "stat::packets_judged: %llu\n", (unsigned long long)*packets);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("FUZZ_TARGET");
    PyObject *module, *target;
    (void)argc;
    (void)argv;
    Py_InitializeEx(0);
    module = PyImport_ImportModule("fuzz.parsers");
    if (module == NULL || name == NULL)
        give_up("the targets cannot be loaded");
    target = PyObject_CallMethod(module, "target", "s", name);
    if (target == NULL)
        give_up("the target cannot be prepared");
    if (PyCapsule_CheckExact(target)) {
        in_c = (target_function *)PyCapsule_GetPointer(target, NULL);
        packets = PyCapsule_GetContext(target);
        atexit(report);
    } else {
        in_python = target;
        PyEval_SetTrace(note_line, NULL);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *result;
    if (in_c != NULL) {
        in_c(data, size);
        return 0;
    }
    result = PyObject_CallFunction(in_python, "y#", (const char *)data, (Py_ssize_t)size);
    if (result == NULL)
        give_up("the target raised an exception that nobody expects");
    Py_DECREF(result);
    return 0;
}
