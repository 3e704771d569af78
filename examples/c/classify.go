// Classifies with libedgec: classify MODEL.edge INPUT.bin
package main

// #cgo LDFLAGS: -ledgec -lm
// #include <stdlib.h>
// #include "edgec.h"
// static int run(edgec_session *s, const void *in, void *out) { return edgec_run(s, (const void *[]){in}, (void *[]){out}); }
import "C"
import ("fmt"; "os"; "unsafe")

func check(code C.int) { if code != 0 { panic(C.GoString(C.edgec_last_error())) } }

func main() {
	input, err := os.ReadFile(os.Args[2])
	if err != nil { panic(err) }
	var model *C.edgec_model
	var session *C.edgec_session
	check(C.edgec_load(C.CString(os.Args[1]), 0, &model))
	check(C.edgec_open(model, nil, &session))
	output := make([]float32, C.edgec_output(model, 0).bytes/4)
	check(C.run(session, unsafe.Pointer(&input[0]), unsafe.Pointer(&output[0])))
	for i, score := range output { fmt.Println(i, score) }
}
