import com.pixelmed.validate.DicomSRValidator;

/**
 * PixelMed's judge of reports over many files: reading its templates takes as long as several verdicts.
 *
 * Of each file the line "== PATH", then what DicomSRValidator's own main would print of it.
 */
public class ReportJudge {
    public static void main(String[] paths) throws Exception {
        DicomSRValidator judge = new DicomSRValidator();
        for (String path : paths) {
            System.out.println("== " + path);
            System.out.println(judge.validate(path));
        }
    }
}
