import com.pixelmed.validate.DicomSRValidator;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/**
 * PixelMed's judge of reports, kept running: to start and to read its templates takes as long as ten verdicts.
 *
 * Each line in is the path of a file. Out comes what DicomSRValidator's own main would print of it, or the exception
 * with which it would end, and then the line "== PATH".
 */
public class ReportJudge {
    public static void main(String[] none) throws Exception {
        BufferedReader paths = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        DicomSRValidator judge = new DicomSRValidator();
        for (String path = paths.readLine(); path != null; path = paths.readLine()) {
            try {
                System.out.println(judge.validate(path));
            } catch (Exception unfinished) {
                System.out.println(unfinished);
            }
            System.out.println("== " + path);
        }
    }
}
